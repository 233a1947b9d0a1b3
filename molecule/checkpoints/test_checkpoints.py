"""Checkpoints on a host: there before anything starts, and only the model servers' account may change them."""

CACHE = "/var/cache/babelrack/checkpoints"
SHIPPED = "/srv/babelrack/checkpoints/whisper-base"


def test_what_the_site_ships_is_on_the_host_and_nobody_there_may_change_it(host):
    file = host.file(f"{SHIPPED}/model.safetensors")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o644)
    assert file.size > 100_000_000


def test_the_cache_belongs_to_the_model_servers(host):
    folder = host.file(CACHE)
    assert (folder.user, folder.group, folder.mode) == ("babelrack-asr", "babelrack", 0o750)


def test_nothing_of_a_fetch_is_left_running(host):
    assert host.check_output("systemctl list-units --all --plain --no-legend 'babelrack-checkpoints-*'") == ""

# Takes, amends or releases one place, if the claims are still as `expected` marks them. The lock makes looking and
# writing one step; mkdir makes the place its maker's even without it.
IFS= read -r verb && IFS= read -r expected && IFS= read -r place && IFS= read -r json || exit 64
printf 'babelrack 1\n'
case $place in
    place-[0-9] | place-[0-9][0-9]) ;;
    *) fail "there is no place of that name" ;;
esac
umask 022
mkdir -p -- "$claims" || fail "the folder $claims can't be made by $(id -un)"
(: >>"$claims/.lock") 2>/dev/null || fail "the file $claims/.lock can't be written by $(id -un)"
exec 9>>"$claims/.lock"
flock -w 20 9 || fail "another claim is being made for more than 20 seconds"
if [ "$(mark)" != "$expected" ]; then
    show_claims
    printf 'result changed\n'
    exit 0
fi

folder=$claims/$place
# A claim is there whole or not at all, whenever the power goes.
write_claim() {
    printf '%s\n' "$json" >"$folder/claim.json.new" && sync "$folder/claim.json.new" &&
        mv -f -- "$folder/claim.json.new" "$folder/claim.json" && sync "$folder" "$claims"
}

case $verb in
    take)
        # Under the lock a place without a claim is what a claim that was cut short left behind.
        if [ ! -e "$folder/claim.json" ]; then
            rm -f -- "$folder/claim.json.new"
            [ ! -d "$folder" ] || rmdir -- "$folder" || fail "$folder has no claim.json but other files"
        fi
        mkdir -- "$folder" || fail "$folder can't be made; is the disk full or read-only?"
        if ! write_claim; then
            rm -f -- "$folder/claim.json" "$folder/claim.json.new"
            rmdir -- "$folder"
            fail "$folder/claim.json can't be written; is the disk full?"
        fi
        ;;
    amend)
        [ -f "$folder/claim.json" ] || fail "$folder has no claim to amend"
        write_claim || fail "$folder/claim.json can't be written; is the disk full?"
        ;;
    release)
        rm -f -- "$folder/claim.json" "$folder/claim.json.new" && rmdir -- "$folder" ||
            fail "$folder can't be removed"
        sync "$claims"
        ;;
    *) fail "there is no such verb" ;;
esac
show_claims
printf 'result done\n'

# Runs on a host: what both scripts know about claims. A place is a folder, place-<k>, in the folder of the claims.
set -u
LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
IFS= read -r claims || exit 64

fail() {
    printf 'result failed %s\n' "$*"
    exit 0
}

list_claims() {
    for taken in "$claims"/place-*; do
        [ -d "$taken" ] || continue
        printf 'claim %s ' "${taken##*/}"
        [ ! -f "$taken/claim.json" ] || base64 -w 0 "$taken/claim.json"
        printf '\n'
    done
}

# What the claims are now, in one word: who decides by a list sees with it that the list is still right.
mark() {
    list_claims | sha256sum | cut -d ' ' -f 1
}

show_claims() {
    printf 'mark %s\n' "$(mark)"
    list_claims
}

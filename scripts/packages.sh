# Sourced by quickstart and run-tests: finds out which packages of the distribution are missing and installs them.
needed=()
reasons=()

want() {
    needed+=("$1")
    reasons+=("  $1: $2")
}

# need COMMAND PACKAGE REASON
need() {
    command -v "$1" >/dev/null 2>&1 || want "$2" "$3"
}

# need_for_sandboxes COMMAND PACKAGE REASON: sandboxes see /usr and nothing of what a version manager keeps in a home.
need_for_sandboxes() {
    [ -x "/usr/local/bin/$1" ] || [ -x "/usr/bin/$1" ] || [ -x "/bin/$1" ] || want "$2" "$3"
}

# need_file PATH PACKAGE REASON
need_file() {
    [ -e "$1" ] || want "$2" "$3"
}

install_needed() {
    if [ ${#needed[@]} -eq 0 ]; then
        echo "Nothing." >&2
        return
    fi
    printf 'These packages are missing and will be installed:\n' >&2
    printf '%s\n' "${reasons[@]}" >&2
    command -v apt-get >/dev/null || {
        echo "This is neither Debian nor Ubuntu: please install them yourself, then run this again." >&2
        exit 1
    }
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "You are not root and there is no sudo: please run 'apt-get install ${needed[*]}' as root first." >&2
            exit 1
        }
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${needed[@]}"
}

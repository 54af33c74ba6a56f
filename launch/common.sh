# shellcheck shell=bash
# What the scripts beside this one share; it is read by them, not run.

# Ends the script with one sentence.
fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

# Prints a word in such a way that a shell reads the same word back.
quote() {
    local escaped="'\\''"
    case $1 in
        '' | *[!A-Za-z0-9_@%+=:,./-]*) printf "'%s'" "${1//\'/$escaped}" ;;
        *) printf '%s' "$1" ;;
    esac
}

# Prints a command on one line, each word as `quote` does.
quote_all() {
    local word separator=''
    for word in "$@"; do
        printf '%s' "$separator"
        quote "$word"
        separator=' '
    done
}

# Fails unless a value is a whole number from 1.
whole_number() {
    [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || fail "$1=$2 must be a whole number from 1"
}

# Fails unless a value is the name of a bucket, or empty.
bucket_name() {
    [[ -z $2 || $2 =~ ^[a-z0-9][a-z0-9._-]+$ ]] ||
        fail "$1=$2 must be the name alone, without gs:// and without a path"
}

# Prints the comment at the head of a script, which is its help.
usage() {
    awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$1"
}

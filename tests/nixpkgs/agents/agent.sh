#!@bash@/bin/bash
# The stand-in for @command@. What it prints is for tests to look at.
say() {
    echo "@command@: $*"
}

if [ "${1:-}" = --version ]; then
    say @version@
    exit 0
fi

# The real one refuses too, unless it is told that this is a sandbox.
if [ "@command@" = claude ] && [[ " $* " = *" --dangerously-skip-permissions "* ]] &&
    [ "$EUID" = 0 ] && [ "${IS_SANDBOX:-}" != 1 ]; then
    say "--dangerously-skip-permissions cannot be used with root privileges" >&2
    exit 1
fi

for argument; do say "argument: $argument"; done
for key in @keys@; do
    if [ -n "${!key+set}" ]; then say "$key=${!key}"; fi
done

# State is replaced by rename, which fails on a mounted single file.
state=$HOME/@state@
runs=0
if [ -r "$state" ]; then
    text=$(<"$state")
    say "found: $text"
    runs=${text//[^0-9]/}
fi
@coreutils@/bin/mkdir -p "${state%/*}" &&
    echo "{\"runs\":$((${runs:-0} + 1))}" >"$state.new" &&
    @coreutils@/bin/mv -T "$state.new" "$state" || exit 1

say "ready in $PWD"
while read -r line; do
    case $line in
    exit | "exit "*)
        code=${line#exit}
        exit $((${code:-0}))
        ;;
    "run "*) eval "${line#run }" ;;
    *) say "heard: $line" ;;
    esac
done

#!/usr/bin/env bash
# Installs what `cargo xtask build` has built: the binary, the systemd unit, completions, manual
# pages and, if there is none yet, a first configuration. Starts nothing.
#
#   scripts/install.sh [--prefix DIR] [--destdir DIR] [--uninstall]
#
# --prefix   where programs go (default /usr/local)
# --destdir  put in front of every path, for making packages
set -euo pipefail

prefix=/usr/local
destdir=
uninstall=false
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?--prefix needs a folder}; shift 2 ;;
        --destdir) destdir=${2:?--destdir needs a folder}; shift 2 ;;
        --uninstall) uninstall=true; shift ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "unknown argument: $1 (try --help)" >&2; exit 2 ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
built=${CARGO_TARGET_DIR:-$root/target}/release/sluice
binary=$destdir$prefix/bin/sluice
unit=$destdir$prefix/lib/systemd/system/sluice.service
man=$destdir$prefix/share/man/man8
man5=$destdir$prefix/share/man/man5
bash_completion=$destdir$prefix/share/bash-completion/completions/sluice
zsh_completion=$destdir$prefix/share/zsh/site-functions/_sluice
fish_completion=$destdir$prefix/share/fish/vendor_completions.d/sluice.fish
configuration=$destdir/etc/sluice/sluice.yaml

if $uninstall; then
    # The configuration is the user's: it stays.
    rm -fv "$binary" "$unit" "$bash_completion" "$zsh_completion" "$fish_completion" \
        "$man"/sluice.8 "$man"/sluice-*.8 "$man5"/sluice.yaml.5
    exit 0
fi

if [ ! -x "$built" ]; then
    echo "$built is missing: run \`cargo xtask build\` first" >&2
    exit 1
fi

# Into place by renaming, so that a running daemon keeps its old binary.
install -D -m 755 "$built" "$binary.new"
mv -f "$binary.new" "$binary"

install -d "$(dirname "$unit")" "$man" "$(dirname "$bash_completion")" \
    "$(dirname "$zsh_completion")" "$(dirname "$fish_completion")"
sed "s|/usr/bin/|$prefix/bin/|" "$root/scripts/sluice.service" >"$unit"
"$built" completion bash >"$bash_completion"
"$built" completion zsh >"$zsh_completion"
"$built" completion fish >"$fish_completion"
"$built" man "$man"
install -d "$man5"
mv -f "$man"/sluice.yaml.5 "$man5"/
if [ ! -e "$configuration" ]; then
    install -D -m 640 "$root/examples/l4.yaml" "$configuration"
fi

echo "installed. Next:"
echo "  edit ${configuration#"$destdir"}"
echo "  sluice validate -c ${configuration#"$destdir"}"
echo "  systemctl daemon-reload && systemctl enable --now sluice"

#!/bin/sh
# install.sh [--uninstall]: installs the binary and all that belongs to it below DESTDIR/PREFIX,
# or removes it. It needs no Go: the binary is the one in BINARY. make install and the packages
# both call it, so that both have the same files.
set -eu
cd "$(dirname "$0")/.."

: "${PREFIX=/usr/local}" "${DESTDIR=}" "${BINARY=bin/virt-rotate}"
: "${BASHDIR=$PREFIX/share/bash-completion/completions}" "${FISHDIR=$PREFIX/share/fish/vendor_completions.d}"
: "${ZSHDIR=$PREFIX/share/zsh/site-functions}" "${UNITDIR=$PREFIX/lib/systemd/system}"
: "${DOCDIR=$PREFIX/share/doc/virt-rotate}" "${MANDIR=$PREFIX/share/man}" "${LICENSEDIR=$DOCDIR}"
: "${SYSTEMD=yes}" # no: no units
action=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# put MODE FILE TARGET: TARGET is a path below DESTDIR.
put() {
	if [ "$action" = --uninstall ]; then
		rm -f "$DESTDIR$3"
	else
		install -D -m "$1" "$2" "$DESTDIR$3"
	fi
}

# placed FILE: a copy of it that says where this binary is.
placed() {
	sed "s|/usr/local/bin/virt-rotate|$PREFIX/bin/virt-rotate|g" "$1" >"$work/$(basename "$1")"
	echo "$work/$(basename "$1")"
}

put 0755 "$BINARY" "$PREFIX/bin/virt-rotate"

for page in man/*.[1-8]; do
	put 0644 "$page" "$MANDIR/man${page##*.}/$(basename "$page")"
done

put 0644 packaging/completion/virt-rotate.bash "$BASHDIR/virt-rotate"
put 0644 packaging/completion/_virt-rotate "$ZSHDIR/_virt-rotate"
put 0644 packaging/completion/virt-rotate.fish "$FISHDIR/virt-rotate.fish"

if [ "$SYSTEMD" = yes ]; then
	for unit in virt-rotate.service virt-rotate.timer; do
		put 0644 "$(placed "examples/$unit")" "$UNITDIR/$unit"
	done
fi

[ -z "$LICENSEDIR" ] || put 0644 LICENSE "$LICENSEDIR/LICENSE"
put 0644 README.md "$DOCDIR/README.md"
put 0644 CHANGELOG.md "$DOCDIR/CHANGELOG.md"
for doc in docs/*.md; do
	case $doc in
	docs/design.md | docs/testing.md | docs/qemu-synchronous-copy.md) ;; # for who works on it
	*) put 0644 "$doc" "$DOCDIR/$doc" ;;
	esac
done
find examples -type f | sort | while read -r example; do
	case $example in
	examples/virt-rotate.service | examples/virt-rotate.timer) ;; # installed as units
	*) put 0644 "$(placed "$example")" "$DOCDIR/$example" ;;
	esac
done

if [ "$action" = --uninstall ]; then
	for dir in "$DOCDIR/docs" "$DOCDIR/examples" "$DOCDIR" ${LICENSEDIR:+"$LICENSEDIR"}; do
		[ ! -d "$DESTDIR$dir" ] || find "$DESTDIR$dir" -depth -type d -empty -delete
	done
	echo "the policy (/etc/virt-rotate) and the state (/var/lib/virt-rotate) stay" >&2
fi

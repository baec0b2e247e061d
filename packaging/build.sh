#!/bin/sh
# build.sh KIND…: builds packages of the checkout in bin/packages: deb, rpm, apk, tarball.
# VERSION, if set, is used instead of the one by tag; OUT is another directory. The same commit and
# the same Go give the same bytes.
set -eu
cd "$(dirname "$0")/.."

NFPM=v2.45.2
: "${GO=go}"
line=$(packaging/version.sh)
set -- "$@" -- $line
kinds=
while [ "$1" != -- ]; do kinds="$kinds $1"; shift; done
VERSION=${VERSION:-$2} commit=$3 date=$4 SOURCE_DATE_EPOCH=$5
ARCH=$($GO env GOARCH)
export VERSION ARCH SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
out=${OUT:-bin/packages}
stage=bin/stage # nfpm.yaml has it, too
rm -rf "$out" "$stage"
mkdir -p "$out" "$stage"
cp packaging/nfpm.yaml "$stage"

set_version="-X main.version=$VERSION -X main.commit=$commit -X main.date=$date"

# nfpm is built once for each version of it: that takes minutes.
nfpm() {
	tools=${XDG_CACHE_HOME:-$HOME/.cache}/virt-rotate/tools/nfpm-$NFPM
	if [ ! -x "$tools/nfpm" ]; then
		echo "building nfpm $NFPM, once" >&2
		GOFLAGS='' CGO_ENABLED=0 GOBIN=$tools $GO install "github.com/goreleaser/nfpm/v2/cmd/nfpm@$NFPM"
	fi
	"$tools/nfpm" "$@"
}

# build BINARY FLAGS…: stripped and without this machine's paths.
build() {
	binary=$1
	shift
	$GO build -trimpath -o "$binary" "$@" ./cmd/virt-rotate
}

# dynamic BINARY: a position-independent one, that opens libvirt when it needs it.
dynamic() {
	CGO_ENABLED=1 CGO_CFLAGS="-O2 -g -ffile-prefix-map=$PWD=." build "$1" -tags libvirt_dlopen -buildmode=pie \
		-ldflags "-s -w -buildid= -linkmode=external -extldflags '-Wl,-z,relro,-z,now' $set_version"
}

# needs_glibc BINARY: the newest version of glibc that it has a symbol of.
needs_glibc() {
	objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sed s/GLIBC_// | sort -uV | tail -n 1
}

# packed FILE|DIR: as Debian wants them, and reproducibly.
packed() { find "$1" -type f -exec gzip -9 -n -f {} +; }

# dated DIR: all in it is as old as the commit.
dated() { find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; }

# package KIND DESCRIPTION
package() {
	dated "$stage/$1"
	STAGE=$stage/$1 DESCRIPTION=$2
	export STAGE DESCRIPTION
	sed -e "s/@VERSION@/$VERSION/" -e "s/@DATE@/$(date -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)/" packaging/changelog.yaml >"$stage/changelog.yaml"
	nfpm package --config "$stage/nfpm.yaml" --packager "$1" --target "$out/" >&2
}

# cockpit KIND: Cockpit's page in a package of its own, the same for all architectures.
cockpit() {
	root=$stage/$1-cockpit
	doc=$root/usr/share/doc/virt-rotate-cockpit
	packaging/install-cockpit.sh "$root/usr/share/cockpit/virt-rotate"
	if [ "$1" = deb ]; then
		install -D -m 0644 packaging/deb/copyright "$doc/copyright"
		install -D -m 0644 packaging/deb/lintian-overrides-cockpit "$root/usr/share/lintian/overrides/virt-rotate-cockpit"
	else # their types are in nfpm-cockpit.yaml
		install -D -m 0644 -t "$root-doc" LICENSE docs/page.md
		dated "$root-doc"
	fi
	dated "$root"
	STAGE=$root
	export STAGE
	nfpm package --config packaging/nfpm-cockpit.yaml --packager "$1" --target "$out/" >&2
}

make_deb() {
	root=$stage/deb
	doc=$root/usr/share/doc/virt-rotate
	DESTDIR=$root PREFIX=/usr BINARY=$stage/virt-rotate ZSHDIR=/usr/share/zsh/vendor-completions LICENSEDIR='' packaging/install.sh
	install -m 0644 packaging/deb/copyright "$doc/copyright"
	mv "$doc/CHANGELOG.md" "$doc/changelog"
	packed "$doc/changelog"
	packed "$root/usr/share/man"
	install -D -m 0644 packaging/deb/lintian-overrides "$root/usr/share/lintian/overrides/virt-rotate"
	package deb "$(cat packaging/description)"
	cockpit deb
}

# documents DIR: the lines of nfpm.yaml for all in it.
documents() {
	find "$1" -type f | sort | while read -r file; do
		case $file in *LICENSE) type=license ;; *) type=doc ;; esac
		echo "  - {src: \"$file\", dst: \"/usr/share/${file#"$1"/}\", type: $type, packager: rpm}"
	done
}

make_rpm() {
	root=$stage/rpm
	DESTDIR=$root PREFIX=/usr BINARY=$stage/virt-rotate LICENSEDIR=/usr/share/licenses/virt-rotate packaging/install.sh
	packed "$root/usr/share/man"
	mkdir "$root-doc"
	mv "$root/usr/share/doc" "$root/usr/share/man" "$root/usr/share/licenses" "$root-doc"
	dated "$root-doc"
	documents "$root-doc" >"$stage/documents"
	sed -i "/@RPM-DOCUMENTS@/r $stage/documents" "$stage/nfpm.yaml"
	package rpm "$(tail -n +2 packaging/description)"
	cockpit rpm
}

# Alpine's libc is musl: its binary is built against that, with musl-gcc, or with cc where cc is musl's.
make_apk() {
	root=$stage/apk
	if [ -z "${MUSL_CC:-}" ]; then
		MUSL_CC=$(command -v musl-gcc || true)
		case $(cc -dumpmachine 2>/dev/null) in *musl*) MUSL_CC=cc ;; esac
	fi
	[ -n "$MUSL_CC" ] || { echo "build.sh: please install musl-gcc (package musl-tools or musl-gcc)" >&2; return 1; }
	(export CC="$MUSL_CC"; dynamic "$stage/virt-rotate-musl")
	DESTDIR=$root PREFIX=/usr BINARY=$stage/virt-rotate-musl SYSTEMD=no LICENSEDIR=/usr/share/licenses/virt-rotate packaging/install.sh
	packed "$root/usr/share/man"
	# Versions in Alpine's own way: _pre sorts before the release.
	(VERSION=$(echo "$VERSION" | sed 's/~git\([0-9]*\).*/_pre\1/; s/~.*/_pre/'); package apk "$(head -n 1 packaging/description)")
}

# The tarball has a binary that needs nothing of the host, and has no libvirt.
make_tarball() {
	name=virt-rotate-$VERSION-linux-$ARCH-static
	root=$stage/$name
	mkdir -p "$root"
	CGO_ENABLED=0 build "$root/virt-rotate" -ldflags "-s -w -buildid= $set_version"
	DESTDIR=$stage/static PREFIX= BINARY=$root/virt-rotate SYSTEMD=no packaging/install.sh
	cp -r "$stage/static/share/man" README.md LICENSE CHANGELOG.md "$root"
	mkdir -p "$root/completion"
	cp packaging/completion/* "$root/completion"
	cp -r "$stage/static/share/doc/virt-rotate/docs" "$root/docs"
	dated "$root"
	tar -C "$stage" --sort=name --owner=0 --group=0 --numeric-owner -cf - "$name" | gzip -9 -n >"$out/$name.tar.gz"
}

case "$kinds" in *deb* | *rpm*)
	dynamic "$stage/virt-rotate"
	GLIBC=$(needs_glibc "$stage/virt-rotate")
	export GLIBC
	;;
esac
for kind in $kinds; do
	"make_$kind"
done
rm -rf "$stage"
(cd "$out" && sha256sum * >SHA256SUMS)
ls -l "$out" >&2

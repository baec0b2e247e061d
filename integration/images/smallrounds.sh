#!/bin/sh
# Makes the overlay of "go test -overlay" in DIRECTORY, with which the engine works
# in small rounds and forgets tables at once: what only happens to huge images then
# happens to small ones. Run it in the root of the repository.
set -eu
dir=$1
mkdir -p "$dir"
printf '{"Replace":{' > "$dir/overlay.json"
sep=

# bound FILE NAME VALUE replaces the value of a constant.
bound() {
	copy=$dir/$(echo "$1" | tr / _)
	[ -e "$copy" ] || {
		cp "$1" "$copy"
		printf '%s"%s":"%s"' "$sep" "$PWD/$1" "$copy" >> "$dir/overlay.json"
		sep=,
	}
	sed "s/^\(const \|\t\)$2\( *\)= .*/\1$2\2= $3/" "$copy" > "$copy.new"
	if cmp -s "$copy" "$copy.new"; then
		echo "$1: no constant $2" >&2
		exit 1
	fi
	mv "$copy.new" "$copy"
}

bound qcow2/refcounts.go refCacheBytes 1
bound qcow2/tablecache.go cacheBytes 1
bound internal/chain/fill.go roundGranules 16
bound internal/chain/fill.go roundBounced '256 << 10'
bound internal/chain/fill.go bounceChunk '12 << 10'
bound internal/chain/rebase.go compareChunk '8 << 10'
bound internal/chain/copy.go copyChunk '20 << 10'
printf '}}\n' >> "$dir/overlay.json"

#!/bin/sh
# version.sh: prints VERSION COMMIT DATE EPOCH of the checkout, in one line.
# On the commit of a tag v1.2.3, with nothing changed, the version is 1.2.3. Elsewhere it is
# that of the next release, with ~git and the moment of the commit: all package managers sort it before
# that release and behind the last one, and later commits behind earlier ones.
set -eu
cd "$(dirname "$0")/.."

next=0.2.0 # while there is no tag

if ! commit=$(git rev-parse --short=12 HEAD 2>/dev/null); then
	echo "$next~unknown unknown unknown ${SOURCE_DATE_EPOCH:-0}"
	exit 0
fi
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export TZ=UTC
moment=$(git log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S)
date=$(git log -1 --format=%cd --date=format-local:%Y-%m-%d)
dirty=
git diff --quiet HEAD -- 2>/dev/null || dirty=.dirty

if tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null); then
	last=${tag#v}
	if [ -z "$dirty" ] && [ "$(git rev-parse "$tag^{commit}")" = "$(git rev-parse HEAD)" ]; then
		echo "$last $commit $date $epoch"
		exit 0
	fi
	next=${last%.*}.$((${last##*.} + 1))
fi
echo "$next~git$moment.$commit$dirty $commit$dirty $date $epoch"

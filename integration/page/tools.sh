#!/bin/sh
# Installs what make test-page needs beside what make test-packages does: Chromium, Cockpit, node and npm, and, in
# the user's cache directory, what drives the browser and looks for what a screen reader would stumble over.
set -eu

cache=${XDG_CACHE_HOME:-$HOME/.cache}/virt-rotate/page # as in page_test.go
playwright=1.65.1
axe=4.14.1

"$(dirname "$0")/../packages/tools.sh"
missing=
[ -x /usr/lib/cockpit/cockpit-ws ] || missing="$missing cockpit-ws"
command -v cockpit-bridge >/dev/null 2>&1 || missing="$missing cockpit-bridge"
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
if [ -n "$missing" ]; then
	echo "installing what is missing:$missing" >&2
	command -v apt-get >/dev/null 2>&1 || { echo "tools.sh: please install:$missing" >&2; exit 1; }
	apt-get update -qq
	# shellcheck disable=SC2086 # words
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing fonts-liberation fonts-dejavu-core >&2
fi
if [ "$(cat "$cache/versions" 2>/dev/null)" != "$playwright $axe" ]; then
	mkdir -p "$cache"
	(cd "$cache" && echo '{"private": true}' >package.json &&
		npm install --no-audit --no-fund --ignore-scripts --silent "playwright-core@$playwright" "axe-core@$axe" >&2)
	echo "$playwright $axe" >"$cache/versions"
fi

#!/bin/sh
# install-cockpit.sh DIR: puts Cockpit's page into DIR, such as /usr/local/share/cockpit/virt-rotate.
set -eu
cd "$(dirname "$0")/.."
for file in cockpit/*; do
	install -D -m 0644 "$file" "$1/$(basename "$file")"
done
install -m 0644 internal/page/page.css "$1/page.css"

#!/bin/sh
# Assembles the boot sector: assemble.sh boot.S boot.bin. Needs binutils only.
set -eu
object=$(mktemp)
trap 'rm -f "$object"' EXIT
as --32 -o "$object" "$1"
ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o "$2" "$object"
chmod 644 "$2"

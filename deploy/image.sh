#!/usr/bin/env bash
# Lays out the files of the image around a program that is already built: image.sh PROGRAM FOLDER. Creates in FOLDER:
# root           the program without line tables, and the shared libraries that it loads; belongs to root
# owned          the folders that belong to the image's user
# tidings.debug  the program's symbols and line tables, for a debugger or `addr2line`
set -euo pipefail
program=$1
folder=$2
installed=$folder/root/usr/local/bin/tidings

umask 022
rm -rf "$folder/root" "$folder/owned"
install -D -m 755 "$program" "$installed"
objcopy --only-keep-debug "$program" "$folder/tidings.debug"
# Profiles name functions: the symbol table stays.
strip --strip-debug "$installed"
objcopy --add-gnu-debuglink="$folder/tidings.debug" "$installed"

# The dynamic linker and the C library, at the paths at which the linker looks for them. Name resolution needs no further files:
# since version 2.34 the C library contains it.
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
    install -D -m 755 "$library" "$folder/root$library"
done
# SQLite writes large sorts to a temporary file.
install -d -m 1777 "$folder/root/tmp"
# A new volume mounted on one of these folders gets the folder's owner and mode.
install -d -m 700 "$folder/owned/data" "$folder/owned/keys/signing" "$folder/owned/keys/token"

# Functions for the scripts in default.nix.

# Where a package keeps the libraries of its programs, out of the way of other packages'.
libraries=$out/libexec/lib

# Copies programs, with the libraries that they name.
take() {
    mkdir -p "$out/bin"
    cp -L "$@" "$out/bin/"
    local program
    for program; do own "$out/bin/${program##*/}"; done
}

# Copies the programs of one of Debian's packages; what is a script there has other needs and is left out.
take_programs_of() {
    mkdir -p "$out/bin"
    local program
    for program in $(dpkg -L "$1" | grep -E '^(/usr)?/s?bin/.'); do
        if is_elf "$program"; then cp -L "$program" "$out/bin/"; fi
    done
    own "$out"/bin/*
}

# Has ELF programs use the loader and the libraries of the store.
own() {
    chmod u+w "$@"
    take_libraries "$@"
    local loader home=$glibc
    loader=$(patchelf --print-interpreter /bin/bash)
    # DT_RPATH, not DT_RUNPATH: libraries find the libraries that they name in it too. With pages of 4 kB patchelf 0.18
    # makes a python that crashes.
    patchelf --page-size 65536 --set-interpreter "$home/lib/${loader##*/}" \
        --force-rpath --set-rpath "$libraries:$home/lib" "$@"
}

# Copies the libraries that these files name, unless the C library's package has them.
take_libraries() {
    mkdir -p "$libraries"
    local library
    for library in $(ldd "$@" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u); do
        if [ ! -e "$glibc/lib/${library##*/}" ] && [ ! -e "$libraries/${library##*/}" ]; then
            cp -L "$library" "$libraries/"
        fi
    done
}

is_elf() {
    [ "$(head -c 4 "$1" | tail -c 3)" = ELF ]
}

# The ELF files in a folder that are no links.
elf_files() {
    local file
    for file in "$1"/*; do
        if [ -f "$file" ] && [ ! -L "$file" ] && is_elf "$file"; then echo "$file"; fi
    done
}

# Has the scripts in a folder use the store's shell.
own_scripts() {
    local file
    for file in "$1"/*; do
        if [ -f "$file" ] && [ ! -L "$file" ] && ! is_elf "$file"; then
            sed -i "1s|^#! */bin/\(ba\)\?sh|#!$bash/bin/sh|" "$file"
        fi
    done
}

# Makes a script NAME that starts PROGRAM with these variables set.
wrap() {
    local name=$1 program=$2
    shift 2
    {
        echo "#!$bash/bin/bash"
        printf 'export %q\n' "$@"
        printf 'exec %q "$@"\n' "$program"
    } >"$out/bin/$name"
    chmod +x "$out/bin/$name"
}

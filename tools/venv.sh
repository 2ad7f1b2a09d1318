#!/bin/sh
# Make a virtual environment, with what the machine has:  tools/venv.sh DIRECTORY
#
# Looks for Python 3.11 or later ($PYTHON, else the usual names), and gets along without Debian's python3-venv
# package where pip, virtualenv or uv can stand in for it. It installs nothing outside DIRECTORY, except, as root
# and as the last resort, python3-venv itself.
set -eu

directory=$1

is_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if is_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "Perdure needs Python 3.11 or later; found none among: ${PYTHON:-python3 python3.13 python3.12 python3.11}." >&2
    echo "Install one (Debian: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python …" >&2
    exit 1
}

works() {
    [ -x "$directory/bin/python" ] && "$directory/bin/python" -m pip --version >/dev/null 2>&1
}

# An attempt that fails leaves nothing behind, and is not an error yet: there are others.
attempt() {
    works && return
    rm -rf "$directory"
    "$@" >/dev/null 2>&1 || true
}

with_system_pip() {
    "$python" -m venv --without-pip "$directory" &&
        "$python" -m pip --python "$directory/bin/python" install --quiet pip
}

with_new_debian_package() {
    [ "$(id -u)" = 0 ] && command -v apt-get || return
    echo "python3-venv is missing: installing it" >&3
    apt-get install --yes python3-venv || { apt-get update && apt-get install --yes python3-venv; }
    "$python" -m venv "$directory"
}

python=$(find_python)
exec 3>&2
attempt "$python" -m venv "$directory"
attempt "$python" -m virtualenv "$directory"
attempt uv venv --quiet --seed --python "$python" "$directory"
attempt with_system_pip
attempt with_new_debian_package
works || {
    rm -rf "$directory"
    echo "$python can't make a virtual environment in $directory." >&2
    echo "Debian and Ubuntu: sudo apt-get install python3-venv; or install uv or virtualenv. Then run make again." >&2
    exit 1
}

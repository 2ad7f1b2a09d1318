#!/bin/sh
# Make environments of the other Pythons that the machine has, for the tests:  tools/pythons.sh VENV
#
# Histories are replayed across versions. One that isn't here is not tested; nothing is installed outside VENV.
set -eu

venv=$1

find_python() {
    for candidate in "python$1" "$HOME/.pyenv/versions/$1."*/bin/python "$HOME/.local/share/uv/python/cpython-$1."*/bin/python
    do
        if "$candidate" -c "import ssl, sqlite3, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

for version in 3.11 3.12 3.13 3.14; do
    made=$venv/pythons/$version
    "$venv/bin/python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] == '$version')" || continue
    [ -e "$made/.ready" ] && [ ! pyproject.toml -nt "$made/.ready" ] && continue
    python=$(find_python $version)
    [ -n "$python" ] || continue
    echo "making an environment of Python $version for the tests"
    rm -rf "$made"
    if "$python" -m venv "$made" >/dev/null 2>&1 &&
        "$made/bin/python" -m pip --disable-pip-version-check install --quiet --editable . >/dev/null 2>&1; then
        touch "$made/.ready"
    else
        rm -rf "$made"
        echo "Python $version can't be used: it is not tested here" >&2
    fi
done

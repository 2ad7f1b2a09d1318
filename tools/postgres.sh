#!/bin/sh
# Install Debian 12's PostgreSQL server for the tests, if that is possible:  tools/postgres.sh
#
# It is not started and makes no database: the tests start their own. Without it they run on one version only.
set -eu

version=15

[ -x /usr/lib/postgresql/$version/bin/postgres ] && exit

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing postgresql-$version for the tests"
    export DEBIAN_FRONTEND=noninteractive
    # Debian would make and start a database of its own when the server is installed.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" \
        >/etc/postgresql-common/createcluster.conf
    install="apt-get install --yes --quiet --no-install-recommends postgresql-$version"
    { $install || { apt-get update --quiet && $install; }; } >/dev/null 2>&1 && exit
fi
echo "PostgreSQL $version is not installed (Debian 12: apt-get install postgresql-$version): it is not tested here" >&2

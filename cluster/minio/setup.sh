#!/bin/sh
# Buckets, policies and users on a MinIO that runs; may be given again, and then changes what differs. Needs MinIO's `mc`.
#
#   mc alias set store https://store.internal:9000 llumi-root      # asks for the root user's password
#   cluster/minio/setup.sh store /root/llumi-users                 # one file with a secret per user, mode 0600, kept where they stand
#
# Another bucket or prefix than llumi/main: put it into the four files of policies/ as well.
set -eu
umask 077
store=${1:?"usage: setup.sh ALIAS FOLDER   (mc alias set ALIAS https://store.internal:9000 llumi-root)"}
users=${2:?"usage: setup.sh ALIAS FOLDER   (the folder in which the users' secrets are kept)"}
here=$(cd "$(dirname "$0")" && pwd)

for bucket in llumi llumi-dumps; do
    mc mb --ignore-existing "$store/$bucket"
    # No versions, on purpose: `llumi forget` takes a person's text out of the store, and in a bucket with versions each old one
    # would stay. What protects artifacts is their manifest with hashes, and a copy of the bucket whose age has an end.
    if mc version info "$store/$bucket" | grep -q "versioning is enabled"; then
        echo "$store/$bucket keeps versions, so what is forgotten stays readable; take a bucket without" >&2
        exit 2
    fi
    # Nobody reads without a key.
    mc anonymous set none "$store/$bucket"
done

mkdir -p "$users"
for user in trainer server keys reader; do
    mc admin policy create "$store" "llumi-$user" "$here/policies/$user.json"
    if [ ! -s "$users/$user.secret" ]; then
        openssl rand -hex 32 >"$users/$user.secret"
    fi
    # By standard input, since other users of this machine see the arguments of a command.
    printf '%s\n%s\n' "$user" "$(cat "$users/$user.secret")" | mc admin user add "$store"
    mc admin policy attach "$store" "llumi-$user" --user "$user" || mc admin user info "$store" "$user" | grep -q "llumi-$user"
done
echo "buckets llumi and llumi-dumps, users trainer, server, keys and reader stand; their secrets are in $users"

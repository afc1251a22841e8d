#!/bin/sh
# tt with a Python of its own. Below these lines is a tar.gz, which the first start unpacks into a
# cache: $TT_CACHE, else ~/.cache/tt, else below a directory for temporary files. It may be removed
# while no tt runs. Directories of other users are never used.
content=@CONTENT@
start=@START@
cache=${TT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/dev/null}/.cache}/tt}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac

run() {
  [ -O "$d" ] && [ ! -L "$d" ] && [ -x "$d/start/tt" ] || return 0
  exec "$d/start/tt" --library-path "$d/lib" --argv0 "$d/bin/python3" "$d/lib/python" \
    -I -S "$d/lib/tt" "$@"
}

d=$cache/$content
run "$@"

# not unpacked yet, or elsewhere
case $0 in */*) self=$0 ;; *) self=$(command -v -- "$0") ;; esac
user=$(id -u)
command -v tar >/dev/null && command -v gzip >/dev/null &&
for base in "$cache" "${TMPDIR:-/var/tmp}/tt-$user" "/tmp/tt-$user" "/dev/shm/tt-$user"; do
  d=$base/$content
  run "$@"
  new=$(
    umask 077
    mkdir -p "$base" && [ -O "$base" ] && [ ! -L "$base" ] || exit
    new=$(mktemp -d "$base/new.XXXXXX") || exit
    if tail -c "+$start" "$self" | gzip -dc | tar -xf - -C "$new" &&
      "$new/unpacked/bin/python3" -I -S -c pass; then
      echo "$new"
    else
      rm -rf "$new"
    fi
  ) 2>/dev/null
  [ "$new" ] || continue
  # whoever comes second finds a directory there, and leaves what it has to be removed
  [ -d "$d" ] || mv "$new/unpacked" "$d" 2>/dev/null
  rm -rf "$new" "$d/unpacked"
  run "$@"
done

echo "tt: can't unpack itself: it needs tar, gzip and a directory to run programs from, which" \
  "TT_CACHE may name; the command runs untraced" >&2
while [ $# -gt 0 ]; do
  case $1 in
    --) shift; break ;;
    -n | --name | --id | --title | --url | --token | --token-file | --namespace | --data)
      shift; [ $# -gt 0 ] && shift ;;
    -) exec cat ;;
    -*) shift ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || exit 2
if [ $# -eq 1 ]; then
  command -v bash >/dev/null && exec bash -c "$1"
  exec sh -c "$1"
fi
exec "$@"

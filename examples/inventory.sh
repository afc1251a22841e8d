#!/bin/sh
# A small inventory in four steps, slow enough to be watched.
set -eu
echo "step 1/4  who and where ($1)"
echo "  $(id -un) on $(uname -srm), attempt $QD_ATTEMPT"
sleep 0.5
echo "step 2/4  disks"
df -P / | awk 'NR > 1 { print "  " $6 ": " $5 " of " int($2 / 1024) " MiB used" }'
sleep 0.5
echo "step 3/4  the five largest directories of /usr/share"
du -sk /usr/share/* 2>/dev/null | sort -rn | head -5 | awk '{ print "  " int($1 / 1024) " MiB " $2 }'
echo "  (this line went to stderr)" >&2
sleep 0.5
echo "step 4/4  checks"
for check in time memory processes; do
    printf '  %s ' "$check"
    case $check in
        time) date -u +%FT%TZ ;;
        memory) awk '/MemAvailable/ { print int($2 / 1024) " MiB available" }' /proc/meminfo ;;
        processes) ls /proc | grep -c '^[0-9]' ;;
    esac
    sleep 0.3
done
echo "done"

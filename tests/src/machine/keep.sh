# Boots a machine and takes its cgroup away when it is over. It has no mark of the scratch directory, so that whoever ends
# everything of a test by that mark leaves this to do its work; it ends with the machine, which has the mark.
# $1: boot.sh, $2 $3: directory and share, $4: systemd, $5: the mark
set -u
table=$(grep -E '^[^ ]+ [^ ]+ cgroup2 ' /proc/mounts | head -1 | cut -d' ' -f2)
[ -n "$table" ] || { echo "no cgroup2 is mounted"; exit 1; }
group=$table/dfs-test-machine-$$
mkdir "$group" || exit 1
(
    # The subshell, not this shell, which outlives it.
    read -r self _ </proc/self/stat
    echo "$self" >"$group/cgroup.procs" || exit 1
    export DFS_TEST_SCRATCH=$5
    exec unshare --mount --net --ipc --uts --cgroup --pid --fork --kill-child --propagation private \
        sh "$1" "$2" "$3" - "$4"
)
code=$?
for turn in 1 2 3 4 5 6 7 8 9 10; do
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d "$group" ] || break
    sleep 0.1
done
exit $code

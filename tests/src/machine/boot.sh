# A fresh machine: $1 is its directory (empty, on the host), $2 what it shares with the host, $3 its cgroup.
# Runs as the first process of new namespaces, makes a root whose changes are in memory alone, and becomes systemd.
set -eu
umask 022
dir=$1
# /proc is still the host's, and so is the number that it gives.
read -r pid _ </proc/self/stat
mount -t tmpfs -o size=2g tmpfs "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" overlay "$dir/root"
root=$dir/root
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
# Devices of its own: systemd changes what is in /dev.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
for device in null zero full random urandom tty fuse autofs; do
    [ -e "/dev/$device" ] || continue
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
    ln -s "${link#*:}" "$root/dev/${link%%:*}"
done
# Nothing of the host's own use of the package, its services and its mounts.
rm -rf "$root"/etc/systemd/system "$root"/etc/dfs "$root"/var/lib/dfs "$root"/var/log/dfs "$root"/sbin/mount.fuse.dfs \
    "$root"/etc/default/dfs-* "$root"/root/.local "$root"/var/log/journal
mkdir -p "$root/etc/systemd/system" "$root/media" "$root/root"
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
echo fresh >"$root/etc/hostname"
printf '127.0.0.1 localhost fresh\n' >"$root/etc/hosts"
mount --bind "$2" "$root/media"
# What would reach through to the host (devices, kernel settings) or needs a real machine.
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
    proc-sys-fs-binfmt_misc.mount systemd-sysctl.service systemd-modules-load.service modprobe@.service systemd-remount-fs.service \
    systemd-random-seed.service systemd-journald-audit.socket systemd-timesyncd.service systemd-resolved.service \
    systemd-networkd.service sys-fs-fuse-connections.mount systemd-tmpfiles-setup-dev.service; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done
cat >"$root/etc/systemd/system/fresh.target" <<'TARGET'
[Unit]
Description=A fresh machine, ready for its first package
Requires=basic.target
After=basic.target
TARGET
hostname fresh
ip link set lo up
cd "$root"
mkdir old
pivot_root . old
echo "$pid" >/media/pid
umount -l /old
rmdir /old
# As on a real machine: an unmount reaches the namespaces that units have for themselves, which else would keep a mount alive.
mount --make-rshared /
exec env -i "container=dfs-test" "DFS_TEST_SCRATCH=${DFS_TEST_SCRATCH:-}" PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    "$4" --system --unit=fresh.target --log-target=console --log-level=notice --show-status=no

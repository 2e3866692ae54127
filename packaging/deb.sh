#!/usr/bin/env bash
# Builds the Debian package of binaries that are there, with nothing but dpkg-deb: units, settings, man pages, completions, and the
# helper that mount(8) calls for the type fuse.dfs.
#
#     cargo build --release --workspace --bins
#     packaging/deb.sh target/release .        # writes ./dfs_VERSION_ARCH.deb
set -euo pipefail
[ $# = 2 ] || { echo "usage: packaging/deb.sh DIRECTORY-OF-BINARIES DIRECTORY-FOR-THE-PACKAGE" >&2; exit 2; }
binaries=$(cd "$1" && pwd)
out=$(cd "$2" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' ../Cargo.toml | head -1)
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
programs="dfs dfs-keeper dfs-master dfs-mount"

install -d "$root"/DEBIAN "$root"/usr/bin "$root"/usr/sbin "$root"/usr/lib/systemd/system "$root"/etc/dfs \
    "$root"/etc/logrotate.d "$root"/usr/share/man/man1 "$root"/usr/share/bash-completion/completions \
    "$root"/usr/share/zsh/vendor-completions "$root"/usr/share/fish/vendor_completions.d "$root"/usr/share/doc/dfs "$work"/documents
for program in $programs; do
    install -m 0755 "$binaries/$program" "$root/usr/bin/"
    strip --strip-debug "$root/usr/bin/$program"
    "$root/usr/bin/$program" --documents "$work/documents"
    mv "$work/documents/$program.bash" "$root/usr/share/bash-completion/completions/$program"
    mv "$work/documents/_$program" "$root/usr/share/zsh/vendor-completions/"
    mv "$work/documents/$program.fish" "$root/usr/share/fish/vendor_completions.d/"
done
gzip -9n "$work"/documents/*.1
mv "$work"/documents/*.1.gz "$root/usr/share/man/man1/"
ln -s ../bin/dfs-mount "$root/usr/sbin/mount.fuse.dfs"
install -m 0644 systemd/*.service "$root/usr/lib/systemd/system/"
install -m 0644 etc/*.toml etc/*.example "$root/etc/dfs/"
install -m 0644 logrotate "$root/etc/logrotate.d/dfs"
install -m 0644 ../docs/*.md "$root/usr/share/doc/dfs/"
install -d "$root/usr/share/doc/dfs/grafana"
install -m 0644 ../docs/grafana/* "$root/usr/share/doc/dfs/grafana/"
install -m 0644 ../LICENSE-MIT "$root/usr/share/doc/dfs/copyright"
(cd "$root" && find etc -type f | sed 's,^,/,' | sort) >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<CONTROL
Package: dfs
Version: $version
Architecture: $arch
Maintainer: the project's engineers <dfs@localhost>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: libc6, libgcc-s1, fuse3, adduser
Section: net
Priority: optional
Description: distributed file system that people use as a directory
 A master, keepers that hold copies of every chunk, and a mount that shows the
 cluster as a directory. Without a cluster the mount runs one inside itself.
CONTROL
install -m 0755 maintainer/postinst maintainer/prerm maintainer/postrm "$root/DEBIAN/"
dpkg-deb --root-owner-group -Zzstd -z9 --build "$root" "$out/dfs_${version}_$arch.deb"

#!/usr/bin/env bash
# Runs every test of the workspace, and does the set-up for it. Arguments go to the test runner.
#
# Needs Linux with /dev/fuse and a Rust toolchain. Other programs that the tests use are installed where that is
# allowed (root and apt-get); elsewhere this says what to install. The exit code is that of the tests.
#
#   DFS_TEST_BIG=10GiB   the size of the film in the memory test (default 1GiB)
#   DFS_TEST_SEED=N      plays a random test again
#   DFS_TEST_FSX_OPS=1000000   operations of fsx with each kind of settings, in seeds of 10,000 (default two of 1500)
#   DFS_TEST_LINK_MAX=1        runs also the case of pjdfstest that makes 65,000 links
#   DFS_TEST_SQLITE=10000      transactions of the SQLite test (default 200)
#   DFS_TEST_MODEL_CASES=3000  sequences of the reference model (default 40)
#   DFS_TEST_DIFFERENTIAL=1500 sequences of the differential run (default 20)
#   DFS_TEST_FILES=5000        files of the archive test (default 1000)
#   DFS_TEST_COMMITS=2000      commits of the git test (default 100)
#   DFS_TEST_ENTRIES=100000    entries of one directory (default 10000)
#   DFS_TEST_OPEN=10000        files open at once (default 2000)
#   DFS_TEST_BACKUP_FILES=50000  files of the backup test (default 1000)
#   DFS_TEST_ROUNDS=200        listings while entries come and go (default 12)
#   DFS_TEST_FAULTS=500        rounds of a minute with faults (default one of 14 s)
#   DFS_TEST_KEEPER_KILLS=1000 kills of keepers in the long run of quick kills (--run-ignored only -E 'test(a_thousand_keepers)')
#   DFS_TEST_SLOW=1            reads 1 GiB beside a slow keeper, with the limits that are aimed at
#   DFS_TEST_KEEP=DIRECTORY    where the logs of a round with faults go that found something
#
# docs/TESTING.md has the long forms with their commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=/dev/null
[ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"

fail() {
    echo "tests/run.sh: $*" >&2
    exit 1
}

# program:package of Debian and its kin
wanted=(
    cc:gcc ffmpeg:ffmpeg ffprobe:ffmpeg mpv:mpv fusermount3:fuse3 rsync:rsync git:git tar:tar sed:sed getfattr:attr
    script:bsdutils setpriv:util-linux unshare:util-linux setsid:util-linux
    nsenter:util-linux ip:iproute2 tc:iproute2 ss:iproute2 bash:bash python3:python3
    findmnt:util-linux mount:mount cmp:diffutils find:findutils sqlite3:sqlite3 zip:zip unzip:unzip setfattr:attr setfacl:acl
    adduser:adduser ps:procps dpkg-deb:dpkg strip:binutils
)

missing_packages() {
    for pair in "${wanted[@]}"; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
    done | sort -u
}

if [ -n "$(missing_packages)" ]; then
    # shellcheck disable=SC2046
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $(missing_packages | xargs)"
        export DEBIAN_FRONTEND=noninteractive
        timeout 300 apt-get update -q || fail "apt-get update failed or took over 5 minutes; see the network, then run this again"
        timeout 900 apt-get install -y -q --no-install-recommends $(missing_packages) ||
            fail "apt-get install failed or took over 15 minutes; install $(missing_packages | xargs) by hand"
    else
        fail "programs are missing; install these packages: $(missing_packages | xargs) (or run as root, where apt-get is)"
    fi
fi
# Only for looking at the master's page: the tests of it say so, and look at its JSON alone, where there is none.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing chromium"
    DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y -q --no-install-recommends chromium ||
        echo "tests/run.sh: chromium cannot be installed: what a browser shows of the master's page is not looked at" >&2
fi
# Only for the run on a fresh machine, which says so where there is none.
if [ ! -x /lib/systemd/systemd ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing systemd"
    DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -q --no-install-recommends systemd ||
        echo "tests/run.sh: systemd cannot be installed: units are not started on a fresh machine" >&2
fi
[ -z "$(missing_packages)" ] || fail "still missing after the installation: $(missing_packages | xargs)"
command -v cargo >/dev/null || fail "cargo is missing; install Rust from https://rustup.rs"
[ -e /dev/fuse ] || modprobe fuse 2>/dev/null || true
[ -e /dev/fuse ] || fail "/dev/fuse is missing; run 'modprobe fuse' as root (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"

# The public suites, in the one version that the tests know. Unoptimized: building takes longer than they run.
suites=(pjdfstest@0.2.2 fsx@0.3.2)
tools="${CARGO_TARGET_DIR:-$PWD/target}/tools"
for suite in "${suites[@]}"; do
    [ "$("$tools/bin/${suite%@*}" --version 2>/dev/null)" = "${suite/@/ }" ] && continue
    echo "installing $suite into $tools"
    timeout 600 cargo install --locked --debug --root "$tools" --target-dir "$tools/build" "$suite" ||
        fail "cargo install $suite failed or took over 10 minutes; with a network, run: cargo install --locked --root $tools $suite"
done
rm -rf "$tools/build"

# The end-to-end tests start these from beside their own executables.
cargo build --workspace --bins

if cargo nextest --version >/dev/null 2>&1; then
    profile=default
    [ -z "${CI:-}" ] || profile=ci
    exec cargo nextest run --profile "$profile" --workspace "$@"
fi
echo "cargo-nextest is not installed: running with cargo test, which has no limit of time per test"
exec cargo test --workspace "$@" -- --test-threads 2

#!/usr/bin/env bash
# Does it cost more processor time than before? Builds this tree and REVISION (HEAD~1 when none is given) with full
# optimization, measures both in turn three times, prints what each thing costs in both, and ends with 1 when something costs over 30 % more.
#
#     tests/regress.sh [REVISION]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

revision=$(git rev-parse --verify "${1:-HEAD~1}^{commit}")
work=$PWD/target/regress
old=$work/tree
mkdir -p "$work"
cleanup() { git worktree remove --force "$old" 2>/dev/null || true; }
trap cleanup EXIT
cleanup
git worktree add --detach --quiet "$old" "$revision"
[ -e "$old/tests/src/bin/dfs-bench-cost.rs" ] || { echo "regress: $revision has no dfs-bench-cost, which came later" >&2; exit 2; }

cargo build --release --workspace --bins
(cd "$old" && CARGO_TARGET_DIR=$work/target cargo build --release --workspace --bins)
new_files='' old_files=''
for round in 1 2 3; do
    "$work/target/release/dfs-bench-cost" --rounds 1 --json "$work/old-$round.json" >/dev/null
    target/release/dfs-bench-cost --rounds 1 --json "$work/new-$round.json" >/dev/null
    old_files+=,$work/old-$round.json new_files+=,$work/new-$round.json
done
target/release/dfs-bench-cost --compare "${new_files#,}" --against "${old_files#,}"

//! Real films: mp4 files made with ffmpeg, and ways to play them without a screen.
//!
//! A film is made once and kept under `films/` in the target directory, behind a lock, so that tests which run
//! side by side do not make it twice. The index of these files is at their end, where ffmpeg puts it unless told
//! otherwise: a player has to seek before it can begin.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::run::{Ran, run, run_ok};

const MIB: u64 = 1 << 20;

/// About 20 MiB, 16 s.
pub fn small() -> PathBuf {
    made("small.mp4", 15 * MIB, |to| encode(to, 16, 10))
}

/// About 100 MiB, 50 s.
pub fn medium() -> PathBuf {
    made("medium.mp4", 90 * MIB, |to| encode(to, 50, 17))
}

/// At least `bytes` long: the medium film over and over. It takes no encoding, so it is made as fast as the disk writes.
pub fn long(bytes: u64) -> PathBuf {
    let part = medium();
    let turns = bytes / fs::metadata(&part).unwrap().len() + 1;
    made(&format!("long-{bytes}.mp4"), bytes, |to| {
        ffmpeg(&["-stream_loop", &turns.to_string(), "-i", text(&part), "-c", "copy", "-f", "mp4", text(to)]);
    })
}

/// Seconds that a film lasts, as ffprobe says.
pub fn duration_s(film: &Path) -> f64 {
    let ran =
        run_ok(&["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", text(film)]);
    ran.stdout.trim().parse().unwrap_or_else(|_| panic!("no duration: {ran:#?}"))
}

/// Plays with mpv, which must find nothing to complain of. `flags` such as `--start=10 --length=1`.
#[track_caller]
pub fn play(film: &Path, flags: &[&str]) {
    let ran = run(
        Command::new("mpv")
            .args([
                "--no-config",
                "--vo=null",
                "--ao=null",
                "--ao-null-untimed=yes",
                "--untimed",
                "--cache=no",
            ])
            .args(["--no-input-default-bindings", "--msg-level=all=error", "--term-status-msg="])
            .args(flags)
            .arg(film),
        Duration::from_secs(120),
    )
    .ok();
    let complaints: Vec<&str> =
        ran.stderr.lines().chain(ran.stdout.lines()).filter(|l| is_complaint(l)).collect();
    assert!(complaints.is_empty(), "mpv complains: {complaints:?}");
}

fn is_complaint(line: &str) -> bool {
    // As root mpv has no runtime directory of its own to warn about, but libraries may print what they like.
    let line = line.to_lowercase();
    ["[ffmpeg", "[lavf", "[file]", "failed", "corrupt", "invalid"].iter().any(|word| line.contains(word))
}

/// Plays one second at each of several places, forwards and backwards.
#[track_caller]
pub fn play_with_seeks(film: &Path) {
    for percent in ["80%", "5%", "50%", "20%", "95%"] {
        play(film, &[&format!("--start={percent}"), "--length=1"]);
    }
}

/// Decodes every frame with ffmpeg, which must be silent.
#[track_caller]
pub fn decode(film: &Path) {
    let ran = run_ok(&["ffmpeg", "-nostdin", "-v", "error", "-i", text(film), "-f", "null", "-"]);
    assert!(ran.stderr.is_empty(), "ffmpeg complains: {ran:#?}");
}

/// `cmp A B`: the same to the byte.
#[track_caller]
pub fn same(a: &Path, b: &Path) -> Ran {
    run(Command::new("cmp").args([a, b]), Duration::from_secs(900)).ok()
}

fn encode(to: &Path, seconds: u32, megabits: u32) {
    let picture = "testsrc2=size=1280x720:rate=25,noise=alls=60:allf=t:all_seed=20";
    let rate = format!("{megabits}M");
    let seconds = seconds.to_string();
    let inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=frequency=440"];
    let codecs =
        ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25", "-c:a", "aac"];
    let rates = ["-b:v", &rate, "-minrate", &rate, "-maxrate", &rate, "-bufsize", &rate, "-t", &seconds];
    ffmpeg(&[&inputs[..], &codecs[..], &rates[..], &["-f", "mp4", text(to)]].concat());
}

fn ffmpeg(args: &[&str]) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y"]).args(args);
    run(&mut command, Duration::from_secs(600)).ok();
}

fn made(name: &str, at_least: u64, make: impl FnOnce(&Path)) -> PathBuf {
    let dir = crate::process::binary_dir().parent().unwrap().join("films");
    fs::create_dir_all(&dir).unwrap();
    let film = dir.join(name);
    let lock = File::create(dir.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !film.exists() {
        let part = dir.join(format!("{name}.part"));
        make(&part);
        fs::rename(&part, &film).unwrap();
    }
    let len = fs::metadata(&film).unwrap().len();
    assert!(len >= at_least, "{} has {len} bytes, at least {at_least} were wanted", film.display());
    film
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

//! What a file is to a browser, by its name.
//!
//! What must hold: nothing from the cluster is ever a page or a script of the master's origin. What could be is shown as plain text, and what is
//! not known is only saved.

/// Type, and whether it is to be saved instead of shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    pub mime: &'static str,
    pub save: bool,
}

const TEXT: &str = "text/plain; charset=utf-8";

/// By the letters behind the last dot, in small ones.
const SHOWN: &[(&str, &str)] = &[
    ("mp4", "video/mp4"),
    ("m4v", "video/mp4"),
    ("mov", "video/quicktime"),
    ("mkv", "video/x-matroska"),
    ("webm", "video/webm"),
    ("ogv", "video/ogg"),
    ("avi", "video/x-msvideo"),
    ("mpg", "video/mpeg"),
    ("mpeg", "video/mpeg"),
    ("ts", "video/mp2t"),
    ("m2ts", "video/mp2t"),
    ("mp3", "audio/mpeg"),
    ("m4a", "audio/mp4"),
    ("aac", "audio/aac"),
    ("flac", "audio/flac"),
    ("ogg", "audio/ogg"),
    ("oga", "audio/ogg"),
    ("opus", "audio/ogg"),
    ("wav", "audio/wav"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("png", "image/png"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("txt", TEXT),
    ("md", TEXT),
    ("log", TEXT),
    ("srt", TEXT),
    ("csv", TEXT),
    ("json", TEXT),
    ("toml", TEXT),
    ("yaml", TEXT),
    ("yml", TEXT),
    ("xml", TEXT),
    ("html", TEXT),
    ("htm", TEXT),
    ("xhtml", TEXT),
    ("svg", TEXT),
    ("js", TEXT),
    ("mjs", TEXT),
    ("css", TEXT),
    ("rs", TEXT),
    ("c", TEXT),
    ("h", TEXT),
    ("py", TEXT),
    ("sh", TEXT),
];

pub(super) fn of(name: &[u8]) -> Kind {
    let ending = name.iter().rposition(|byte| *byte == b'.').map_or(&[][..], |dot| &name[dot + 1..]);
    let known = SHOWN.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known.as_bytes()));
    match known {
        Some((_, mime)) => Kind { mime, save: false },
        None => Kind { mime: "application/octet-stream", save: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_a_page_or_a_script() {
        for (ending, mime) in SHOWN {
            let harmless = ["video/", "audio/", "image/", "text/plain;", "text/vtt;"];
            assert!(harmless.iter().any(|start| mime.starts_with(start)), "{ending} is {mime}");
            assert!(!mime.contains("svg") && !mime.contains("html") && !mime.contains("xml"), "{ending}");
        }
        for name in ["a.html", "a.HTM", "a.svg", "a.js", "a.xhtml", "a.xml"] {
            assert_eq!(of(name.as_bytes()), Kind { mime: TEXT, save: false }, "{name}");
        }
        for name in ["a", ".", "a.pdf", "a.mp4.exe", "a.swf", "mp4", ""] {
            assert!(of(name.as_bytes()).save, "{name}");
        }
        assert_eq!(of(b"x/Film.MP4").mime, "video/mp4");
    }
}

//! A folder's films as a list that players open: extended M3U, in UTF-8.

use std::time::Duration;

/// Tells a list of ours from one that somebody made.
const MARK: &str = "# written by bittube publish; it is written anew when the folder is published";

/// In the order in which the films play.
#[derive(Default)]
pub struct Playlist {
    entries: String,
}

impl Playlist {
    pub fn add(&mut self, title: &str, plays: Option<Duration>, address: &str) {
        // -1: not known.
        let seconds = plays.map_or(-1, |plays| {
            i64::try_from((plays + Duration::from_millis(500)).as_secs()).unwrap_or(-1)
        });
        let title = one_line(title);
        self.entries += &format!("#EXTINF:{seconds},{title}\n{address}\n");
    }

    pub fn finish(&self, title: &str) -> String {
        let title = one_line(title);
        format!("#EXTM3U\n{MARK}\n#PLAYLIST:{title}\n{}", self.entries)
    }

    /// Whether a file that begins like this may be written over.
    pub fn is_ours(text: &[u8]) -> bool {
        text.strip_prefix(b"#EXTM3U\n")
            .is_some_and(|rest| rest.starts_with(MARK.as_bytes()))
    }
}

/// A name may hold a line's end, and so a whole further entry.
fn one_line(text: &str) -> String {
    let plain = text.chars();
    plain
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_what_plays_how_long_and_where() {
        let mut list = Playlist::default();
        list.add(
            "One",
            Some(Duration::from_millis(61_500)),
            "http://localhost:8081/a",
        );
        list.add("Two\n#EXTINF:9,evil\r", None, "http://localhost:8081/b");
        let text = list.finish("Films\n");
        assert_eq!(
            text,
            format!(
                "#EXTM3U\n{MARK}\n#PLAYLIST:Films \n#EXTINF:62,One\nhttp://localhost:8081/a\n\
                 #EXTINF:-1,Two #EXTINF:9,evil \nhttp://localhost:8081/b\n"
            )
        );
        assert!(Playlist::is_ours(text.as_bytes()));
        assert!(!Playlist::is_ours(b"#EXTM3U\n#EXTINF:1,a\nb\n") && !Playlist::is_ours(b""));
    }
}

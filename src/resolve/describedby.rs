//! Links to a .torrent in an origin's `Link` header (RFC 8288, RFC 6249).

use url::Url;

/// Links of one answer that are looked at.
const LINKS_MAX: usize = 64;
/// `application/x-bittorrent` is what RFC 6249 §3.2 names.
const TORRENT_TYPE: &str = "application/x-bittorrent";

/// The targets of `rel="describedby"; type="application/x-bittorrent"` in the values of a `Link`
/// header, in their order; relative ones are resolved against `base`. A link with an anchor speaks
/// of something else (RFC 8288 §3.2).
pub fn torrents<'a>(values: impl Iterator<Item = &'a str>, base: &Url) -> Vec<Url> {
    let mut out = Vec::new();
    for link in values.flat_map(links).take(LINKS_MAX) {
        let first = |name: &str| {
            let mut all = link.params.iter();
            all.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(&**value))
        };
        let rel = first("rel").unwrap_or_default();
        let describes = rel
            .split_ascii_whitespace()
            .any(|rel| rel.eq_ignore_ascii_case("describedby"));
        let media = first("type").and_then(|media| media.split(';').next());
        let is_torrent = media.is_some_and(|media| media.trim().eq_ignore_ascii_case(TORRENT_TYPE));
        if !describes || !is_torrent || first("anchor").is_some() {
            continue;
        }
        let Ok(mut url) = base.join(link.target) else {
            continue;
        };
        url.set_fragment(None);
        if matches!(url.scheme(), "http" | "https") && !out.contains(&url) {
            out.push(url);
        }
    }
    out
}

struct Link<'a> {
    target: &'a str,
    params: Vec<(&'a str, String)>,
}

/// The links of one field value; the text after the first malformed one is passed over.
fn links(value: &str) -> impl Iterator<Item = Link<'_>> {
    let mut rest = value;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let (target, after) = rest.strip_prefix('<')?.split_once('>')?;
        let mut params = Vec::new();
        rest = after;
        while let Some(after) = rest.trim_start_matches([' ', '\t']).strip_prefix(';') {
            let (param, after) = param(after);
            params.extend(param);
            rest = after;
        }
        Some(Link {
            target: target.trim(),
            params,
        })
    })
}

/// A parameter behind its `;`, if there is one, and what follows it.
fn param(text: &str) -> (Option<(&str, String)>, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    let end = text.find(['=', ';', ',']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = name.trim_end_matches([' ', '\t']);
    let Some(rest) = rest.strip_prefix('=') else {
        return ((!name.is_empty()).then(|| (name, String::new())), rest);
    };
    let rest = rest.trim_start_matches([' ', '\t']);
    if let Some(quoted) = rest.strip_prefix('"') {
        let (value, rest) = unquoted(quoted);
        return (Some((name, value)), rest);
    }
    let end = rest.find([';', ',']).unwrap_or(rest.len());
    let value = rest[..end].trim_end_matches([' ', '\t']);
    (Some((name, value.to_owned())), &rest[end..])
}

/// A quoted string behind its first quote (RFC 9110 §5.6.4), and what follows it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(value: &str) -> Vec<String> {
        let base = Url::parse("https://h.example/dir/film.mp4?x=1").unwrap();
        let urls = torrents(std::iter::once(value), &base);
        urls.into_iter().map(String::from).collect()
    }

    #[test]
    fn as_rfc_6249_shows_it() {
        assert_eq!(
            found(
                r#"<http://www2.example.com/a>; rel=duplicate, <http://a.example/a.torrent>; rel=describedby; type="application/x-bittorrent", <b.torrent>;rel="describedby";type=application/x-bittorrent"#
            ),
            [
                "http://a.example/a.torrent",
                "https://h.example/dir/b.torrent"
            ]
        );
    }

    #[test]
    fn odd_but_good_forms() {
        for value in [
            r#"</a.torrent>; REL="up DescribedBy"; Type="Application/X-BitTorrent; v=1""#,
            "  ,, <\t/a.torrent> ;\trel = describedby ; type = application/x-bittorrent ;",
            r#"</a.torrent>; title="a, b; \"<x>\""; rel=describedby; type=application/x-bittorrent; rel=next"#,
            r#"</a.torrent#x>; hidden; rel=describedby; type=application/x-bittorrent, </a.torrent>; rel=describedby; type=application/x-bittorrent"#,
        ] {
            assert_eq!(found(value), ["https://h.example/a.torrent"], "{value}");
        }
    }

    #[test]
    fn other_links_are_passed_over() {
        for value in [
            "",
            "</a.torrent>",
            "</a.torrent>; rel=describedby",
            "</a.meta4>; rel=describedby; type=application/metalink4+xml",
            "</a.torrent>; rel=next; rel=describedby; type=application/x-bittorrent",
            "</a.torrent>; rel=describedbyx; type=application/x-bittorrent",
            r##"</a.torrent>; rel=describedby; type=application/x-bittorrent; anchor="#part""##,
            "<ftp://h/a.torrent>; rel=describedby; type=application/x-bittorrent",
            "<magnet:?xt=x>; rel=describedby; type=application/x-bittorrent",
            "<http://[>; rel=describedby; type=application/x-bittorrent",
            "</a.torrent; rel=describedby; type=application/x-bittorrent",
            "/a.torrent; rel=describedby; type=application/x-bittorrent",
            r#"</a.torrent>; rel="describedby; type=application/x-bittorrent"#,
        ] {
            assert!(found(value).is_empty(), "{value}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn hostile_values_do_not_panic(value in r#"[<>;,="\\ a-z/é]{0,60}"#) {
            found(&value);
            found(&format!("<{value}>; rel=describedby; type=application/x-bittorrent"));
        }
    }
}

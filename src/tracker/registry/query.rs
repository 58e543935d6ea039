//! `url=<video>` of a request, percent-encoded: the video that is meant.

use url::Url;

/// Longer addresses are not registered.
const URL_LEN_MAX: usize = 4096;

/// What is asked is no video's address; answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuery(&'static str);

/// `query`: what stands behind `?`. The first `url` counts, other names are passed over. As one
/// address is one video, a fragment is refused like anything else that never reaches a server.
pub fn video(query: &str) -> Result<Url, BadQuery> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let encoded = pairs.find_map(|(name, value)| (name == "url").then_some(value));
    let encoded = encoded.ok_or(BadQuery("ask for ?url=<percent-encoded video URL>"))?;
    let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8();
    let text = decoded.map_err(|_| BadQuery("the video's URL is not UTF-8"))?;
    let url = Url::parse(&text).map_err(|_| BadQuery("the video's URL is none"))?;
    if url.as_str().len() > URL_LEN_MAX {
        return Err(BadQuery("the video's URL is longer than 4096 bytes"));
    }
    if !matches!(url.scheme(), "http" | "https") || url.port() == Some(0) {
        return Err(BadQuery("a video's URL is http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(BadQuery("without user name, password and #fragment"));
    }
    Ok(url)
}

/// As the video's server calls it.
pub fn name(video: &Url) -> Option<String> {
    let last = video.path_segments()?.next_back()?;
    let name = percent_encoding::percent_decode_str(last).decode_utf8_lossy();
    let is_name = !matches!(&*name, "" | "." | "..") && !name.contains('/');
    is_name.then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_video_is_found_in_a_query() {
        for (query, expect) in [
            (
                "url=https%3A%2F%2Fa.example%2Fb+c%2520d.mp4%3Fx%3D1%262",
                "https://a.example/b+c%20d.mp4?x=1&2",
            ),
            (
                "x=1&url=http://A.example:80/b.mp4&y=2&url=z",
                "http://a.example/b.mp4",
            ),
        ] {
            assert_eq!(video(query).unwrap().as_str(), expect);
        }
    }

    #[test]
    fn what_is_no_video_is_refused() {
        let long = format!("url=http://a/{}", "x".repeat(URL_LEN_MAX));
        for query in [
            "",
            "url",
            "url=",
            "uri=http://a/b",
            "url=a/b",
            "url=ftp://a/b",
            "url=http://",
            "url=http://u@a/b",
            "url=http://u:p@a/b",
            "url=http://a/b%23c",
            "url=http://a/%ff%ff",
            "url=%ff",
            "url=http://a:0/b",
            "url=file:///etc/passwd",
            &long,
        ] {
            let bad = video(query);
            // In a path the bytes stay as they were sent.
            assert!(bad.is_err() || query.contains("/%ff"), "{query}");
        }
    }

    #[test]
    fn a_video_has_the_name_that_its_server_gives_it() {
        let of = |text: &str| name(&Url::parse(text).unwrap());
        assert_eq!(of("http://a/b/c%20d.mp4?x"), Some("c d.mp4".to_owned()));
        for text in ["http://a/", "http://a/b/", "http://a/x%2Fy"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_taken_is_taken_again(text in "[ -~]{0,80}") {
            let all = percent_encoding::NON_ALPHANUMERIC;
            for query in [text.clone(), format!("url={text}"), format!("url=http://a/{text}")] {
                if let Ok(url) = video(&query) {
                    let again = percent_encoding::utf8_percent_encode(url.as_str(), all);
                    prop_assert_eq!(video(&format!("url={again}")), Ok(url));
                }
            }
        }
    }
}

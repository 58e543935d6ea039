//! Sites that know of a film from its origin itself (R13).

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::stub::gate::Provenance;

/// Sites remembered of one film; others ask its origin once more.
const SITES_MAX: usize = 64;

#[derive(Default)]
pub struct Sites(RefCell<BTreeSet<String>>);

impl Sites {
    /// The origin has answered a request of this site.
    pub fn note(&self, from: &Provenance) {
        let mut sites = self.0.borrow_mut();
        if let Some(site) = from.site.as_ref().filter(|_| sites.len() < SITES_MAX) {
            sites.insert(site.clone());
        }
    }

    /// Whether nothing is told by answering fast: the user's own requests, and sites that know.
    pub fn knows(&self, from: &Provenance) -> bool {
        match &from.site {
            Some(site) => self.0.borrow().contains(site),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_knows_once_its_request_was_answered() {
        let sites = Sites::default();
        let site = |name: &str| Provenance {
            web: true,
            site: Some(name.into()),
        };
        assert!(!sites.knows(&site("https://a.example")));
        sites.note(&site("https://a.example"));
        assert!(sites.knows(&site("https://a.example")));
        assert!(!sites.knows(&site("https://b.example")));
        assert!(sites.knows(&Provenance::USER));
        (0..100).for_each(|n| sites.note(&site(&format!("https://{n}.example"))));
        assert_eq!(sites.0.borrow().len(), SITES_MAX);
    }
}

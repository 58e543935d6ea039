//! What each side offers in its extended handshake, and may change later (BEP 10, BEP 21).

use crate::peer::PeerMisbehaved;
use crate::peer::extension::{self, Offer};
use crate::peer::message::Message;
use crate::peer::session::Setup;
use crate::peer::session::outbox::Outbox;

#[derive(Debug)]
pub struct Offers {
    listen_port: u16,
    metadata_len: Option<u32>,
    upload_only: bool,
    theirs: Offer,
}

impl Offers {
    pub fn new(setup: &Setup) -> Self {
        Self {
            listen_port: setup.listen_port,
            metadata_len: setup.metadata_len,
            upload_only: setup.upload_only,
            theirs: Offer::default(),
        }
    }

    /// Says ours.
    pub fn write(&self, outbox: &mut Outbox) {
        let payload = extension::handshake(self.metadata_len, self.listen_port, self.upload_only);
        outbox.write(Message::Extended {
            id: extension::HANDSHAKE,
            payload: &payload,
        });
    }

    pub fn know_metadata(&mut self, len: u32) {
        self.metadata_len = Some(len);
    }

    /// Whether that is new.
    pub fn set_upload_only(&mut self, upload_only: bool) -> bool {
        std::mem::replace(&mut self.upload_only, upload_only) != upload_only
    }

    /// Of the metadata that we have; zero: none.
    pub fn own_metadata_len(&self) -> u32 {
        self.metadata_len.unwrap_or(0)
    }

    /// Theirs; gives the port if it names one.
    pub fn handle(&mut self, payload: &[u8]) -> Result<Option<u16>, PeerMisbehaved> {
        let offer = Offer::parse(payload)?;
        let port = offer.listen_port;
        self.theirs.update(offer);
        Ok(port)
    }

    pub fn client(&self) -> Option<&str> {
        self.theirs.client.as_deref()
    }

    pub fn reqq(&self) -> u32 {
        self.theirs.reqq.unwrap_or(extension::REQQ)
    }

    /// The peer's.
    pub fn upload_only(&self) -> bool {
        self.theirs.upload_only == Some(true)
    }

    /// Under which id the peer takes `ut_metadata`, if it does.
    pub fn metadata_id(&self) -> Option<u8> {
        self.theirs.ut_metadata.filter(|id| *id != 0)
    }

    /// Of the metadata that the peer has and gives.
    pub fn metadata_len(&self) -> Option<u32> {
        self.theirs
            .metadata_len
            .filter(|_| self.metadata_id().is_some())
    }
}

//! What a pool wants done, and what it has to tell.

use std::collections::VecDeque;
use std::ops::Range;

use url::Url;

use crate::http::head::ResponseHead;
use crate::origin::OriginFailed;
use crate::origin::pool::conns::ConnKey;
use crate::origin::transfer::Fetch;

#[derive(Debug)]
pub enum Output {
    /// Connect to the URL's scheme, host and port, and answer `handle_connected`.
    Connect {
        conn: ConnKey,
        url: Url,
    },
    Send {
        conn: ConnKey,
        bytes: Vec<u8>,
    },
    /// The connection is forgotten here already; what it still brings is ignored.
    Close {
        conn: ConnKey,
    },
    /// The first usable answer to a fetch; `total`: bytes of the whole file. There is none if the
    /// fetch begins just where the file ends: that is done at once.
    Head {
        key: u64,
        head: Box<ResponseHead>,
        total: Option<u64>,
    },
    Body {
        key: u64,
        /// In the bytes just handed in.
        at: Range<usize>,
        /// File offset of the first.
        offset: u64,
    },
    Done {
        key: u64,
    },
    Failed {
        key: u64,
        error: OriginFailed,
    },
    /// The file is not the pinned one: nothing of it may be mixed. All fetches fail, now and later.
    Changed,
}

/// In the order made.
#[derive(Default)]
pub struct Outputs {
    queue: VecDeque<Output>,
}

impl Outputs {
    pub fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub fn done(&mut self, key: u64) {
        self.push(Output::Done { key });
    }

    pub fn fail(&mut self, fetch: &Fetch, error: OriginFailed) {
        let key = fetch.key;
        self.push(Output::Failed { key, error });
    }

    pub fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }
}

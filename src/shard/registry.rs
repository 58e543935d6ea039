//! The registry at work: a thread with a ring of its own, which answers, keeps, fetches and hashes.

mod shelf;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use url::Url;

use crate::http::head::Headers;
use crate::http::head::Method;
use crate::http::pin::Pin;
use crate::http::reply::Reply;
use crate::ring::mailbox;
use crate::ring::mailbox::Inbox;
use crate::ring::mailbox::Mail;
use crate::ring::runtime;
use crate::shard::download::Web;
use crate::shard::hashing;
use crate::shard::hashing::BadRead;
use crate::shard::hashing::Terms;
use crate::shard::registry::shelf::Shelf;
use crate::tracker::registry;
use crate::tracker::registry::Body;
use crate::tracker::registry::Failed;
use crate::tracker::registry::Film;
use crate::tracker::registry::Output;
use crate::tracker::registry::Policy;
use crate::tracker::registry::Registry;
use crate::tracker::registry::hosts::Pattern;
use crate::tracker::registry::job::JobId;
use crate::tracker::registry::tokens::Tokens;
use crate::units::Time;

/// Where a server hands requests over.
pub const PATH: &str = "/metainfo";
/// Requests that wait; each may hold a publisher's torrent.
const MAILBOX_MAX: usize = 64;
/// A video's server has this long to say which version it has.
const CHECK_WAIT: Duration = Duration::from_secs(10);
/// When there is nothing to wait for.
const IDLE_WAIT: Duration = Duration::from_secs(3600);

/// What a registry needs to know.
pub struct Options {
    pub dir: PathBuf,
    pub policy: Policy,
    pub web: Web,
}

/// To a registry, from any thread; it ends with the last of these.
#[derive(Clone)]
pub struct Door {
    mail: Mail<Letter>,
}

enum Letter {
    Asked(Box<Asked>, oneshot::Sender<Reply>),
    Hosts(Tokens, Vec<Pattern>),
}

struct Asked {
    method: Method,
    query: String,
    authorization: Option<String>,
    if_none_match: Option<String>,
    /// `None`: it has not been read yet, and perhaps need not be.
    body: Option<Bytes>,
}

/// Reads what is kept in the directory, and starts.
pub fn start(options: Options) -> io::Result<Door> {
    let Options { dir, policy, web } = options;
    let (shelf, records) = Shelf::open(&dir)?;
    let mut registry = Registry::new(policy);
    let now = runtime::now();
    for record in records {
        let url = record.url.clone();
        if !registry.restore(now, record) {
            tracing::warn!(url, "there is no room for a torrent that was kept");
        }
    }
    let (mail, inbox) = mailbox::mailbox(MAILBOX_MAX);
    let thread = thread::Builder::new().name("registry".to_owned());
    thread.spawn(move || {
        let ran = runtime::run(async move { Office::new(registry, shelf, web).run(inbox).await });
        if let Err(error) = ran {
            tracing::error!(%error, "the registry ended");
        }
    })?;
    Ok(Door { mail })
}

impl Door {
    /// Before the body of a PUT is read: the answer that needs none of it, if there is one.
    pub async fn refusal(&self, query: &str, headers: &Headers) -> Option<Reply> {
        let answer = self.ask(Method::Put, query, headers, None).await;
        (answer.status != CONTINUE).then_some(answer)
    }

    /// GET, HEAD or PUT of [`PATH`]. `query`: what stands behind `?`, still percent-encoded.
    pub async fn answer(
        &self,
        method: Method,
        query: &str,
        headers: &Headers,
        body: Bytes,
    ) -> Reply {
        self.ask(method, query, headers, Some(body)).await
    }

    /// From now on others may register, and other hosts are fetched from. False if it was busy.
    pub fn set_hosts(&self, tokens: Tokens, auto: Vec<Pattern>) -> bool {
        self.mail.send(Letter::Hosts(tokens, auto)).is_ok()
    }

    async fn ask(
        &self,
        method: Method,
        query: &str,
        headers: &Headers,
        body: Option<Bytes>,
    ) -> Reply {
        let header = |name| headers.get(name).map(str::to_owned);
        let asked = Asked {
            method,
            query: query.to_owned(),
            authorization: header("authorization"),
            if_none_match: header("if-none-match"),
            body,
        };
        let (answer, answered) = oneshot::channel();
        let letter = Letter::Asked(Box::new(asked), answer);
        if self.mail.send(letter).is_err() {
            return BUSY.answer();
        }
        answered.await.unwrap_or_else(|_| BUSY.answer())
    }
}

/// What an answer says without asking the machine.
struct Said(u16, &'static str);

const CONTINUE: u16 = 100;
const BUSY: Said = Said(503, "the registry is busy\n");
const NO_METHOD: Said = Said(405, "GET, HEAD and PUT are answered\n");
const NOT_KEPT: Said = Said(507, "the torrent cannot be kept\n");

impl Said {
    fn answer(&self) -> Reply {
        let reply = Reply::new(self.0, "text/plain", self.1);
        if self.0 == NO_METHOD.0 {
            return reply.with("Allow", "GET, HEAD, PUT");
        }
        reply
    }
}

enum Event {
    Hashed(JobId, Result<Film, Failed>),
    Checked(Url, Result<Pin, Failed>),
}

struct Office {
    registry: Registry,
    shelf: Shelf,
    web: Rc<Web>,
    hashing: BTreeMap<JobId, JoinHandle<()>>,
    events: Rc<Events>,
}

#[derive(Default)]
struct Events {
    queue: RefCell<VecDeque<Event>>,
    wake: Notify,
}

impl Events {
    fn tell(&self, event: Event) {
        self.queue.borrow_mut().push_back(event);
        self.wake.notify_one();
    }
}

impl Office {
    fn new(registry: Registry, shelf: Shelf, web: Web) -> Self {
        Self {
            registry,
            shelf,
            web: Rc::new(web),
            hashing: BTreeMap::new(),
            events: Rc::default(),
        }
    }

    /// Until the last door is shut.
    async fn run(mut self, mut inbox: Inbox<Letter>) {
        // What was kept and found no room.
        self.drain();
        loop {
            let now = runtime::now();
            let next = self.registry.next_timeout();
            let wait = if next == Time::NEVER {
                IDLE_WAIT
            } else {
                next.since(now)
            };
            let events = self.events.clone();
            tokio::select! {
                letter = inbox.recv() => match letter {
                    Some(letter) => self.take(letter),
                    None => return,
                },
                () = events.wake.notified() => {}
                () = runtime::sleep(wait) => self.registry.handle_timeout(runtime::now()),
            }
            while let Some(event) = self.next_event() {
                self.handle(event);
            }
            self.drain();
        }
    }

    fn next_event(&self) -> Option<Event> {
        self.events.queue.borrow_mut().pop_front()
    }

    fn take(&mut self, letter: Letter) {
        match letter {
            Letter::Hosts(tokens, auto) => self.registry.set_hosts(tokens, auto),
            Letter::Asked(asked, answer) => {
                // Who asked may have gone.
                let _ = answer.send(self.answer(&asked));
            }
        }
    }

    fn answer(&mut self, asked: &Asked) -> Reply {
        let now = runtime::now();
        let query = &asked.query;
        let authorization = asked.authorization.as_deref();
        let reply = match (asked.method, &asked.body) {
            (Method::Get | Method::Head, _) => {
                let is_head = matches!(asked.method, Method::Head);
                let known = asked.if_none_match.as_deref();
                self.registry.handle_get(now, query, known, is_head)
            }
            (Method::Put, None) => match self.registry.may_put(query, authorization) {
                Ok(_) => return Said(CONTINUE, "").answer(),
                Err(refusal) => refusal,
            },
            (Method::Put, Some(body)) => {
                let reply = self.registry.handle_put(now, query, authorization, body);
                if !self.drain() {
                    return NOT_KEPT.answer();
                }
                reply
            }
            _ => return NO_METHOD.answer(),
        };
        self.fill(reply)
    }

    /// With the torrent, if the reply is one.
    fn fill(&mut self, reply: registry::Reply) -> Reply {
        let body = match reply.body {
            Body::Text(text) => Bytes::from(text),
            Body::Torrent(url) => match self.shelf.read(&url) {
                Ok(torrent) => Bytes::from(torrent),
                Err(error) => {
                    tracing::error!(%error, url, "a torrent is not to be had");
                    let lost = self.registry.lost(&url);
                    return self.fill(lost);
                }
            },
        };
        Reply {
            status: reply.status,
            headers: reply.headers,
            body,
        }
    }

    fn handle(&mut self, event: Event) {
        let now = runtime::now();
        match event {
            Event::Hashed(id, result) => {
                self.hashing.remove(&id);
                self.registry.handle_hashed(now, id, result);
            }
            Event::Checked(url, result) => {
                if let Err(error) = &result {
                    tracing::debug!(%error, %url, "a video's server does not say its version");
                }
                self.registry.handle_checked(now, &url, result);
            }
        }
    }

    /// Does what the machine wants done; false if something could not be kept.
    fn drain(&mut self) -> bool {
        let mut kept = true;
        while let Some(output) = self.registry.poll_output() {
            match output {
                Output::Store { record, torrent } => {
                    let (url, by) = (record.url.clone(), record.by);
                    match self.shelf.store(record, &torrent) {
                        Ok(()) => tracing::info!(url, ?by, "a torrent is registered"),
                        Err(error) => {
                            tracing::error!(%error, url, "a torrent cannot be kept");
                            self.registry.lost(&url);
                            kept = false;
                        }
                    }
                }
                Output::Note { record } => {
                    if let Err(error) = self.shelf.note(record) {
                        tracing::error!(%error, "a record cannot be kept");
                    }
                }
                Output::Delete { url } => {
                    tracing::info!(url, "a torrent is retired");
                    if let Err(error) = self.shelf.delete(&url) {
                        tracing::error!(%error, url, "a torrent cannot be removed");
                    }
                }
                Output::Hash {
                    id,
                    url,
                    length_max,
                } => self.hash(id, url, length_max),
                Output::Cancel { id } => {
                    if let Some(task) = self.hashing.remove(&id) {
                        task.abort();
                    }
                }
                Output::Check { url } => self.check(url),
            }
        }
        kept
    }

    fn hash(&mut self, id: JobId, url: Url, length_max: u64) {
        let (web, events) = (self.web.clone(), self.events.clone());
        tracing::info!(%url, "a video is fetched and hashed");
        let task = runtime::spawn(async move {
            let result = fetch(&web, &url, length_max).await;
            if let Err(error) = &result {
                tracing::info!(%error, %url, "a video cannot be published");
            }
            events.tell(Event::Hashed(id, result.map_err(failed)));
        });
        self.hashing.insert(id, task);
    }

    fn check(&self, url: Url) {
        let (web, events) = (self.web.clone(), self.events.clone());
        runtime::spawn(async move {
            let result = tokio::select! {
                said = hashing::version(&web, &url) => said.map_err(|error| failed(error.into())),
                () = runtime::sleep(CHECK_WAIT) => Err(Failed {
                    why: "no answer in time".to_owned(),
                    retry: None,
                }),
            };
            events.tell(Event::Checked(url, result));
        });
    }
}

async fn fetch(web: &Web, url: &Url, length_max: u64) -> Result<Film, BadRead> {
    let terms = Some(Terms { length_max });
    let (hashed, pin) = hashing::hash(web, url, terms, |_, _| ()).await?;
    Ok(Film { hashed, pin })
}

fn failed(error: BadRead) -> Failed {
    let why = error.to_string();
    let retry = match error {
        BadRead::Origin(error) => error.retry,
        _ => None,
    };
    Failed { why, retry }
}

#[cfg(test)]
mod tests;

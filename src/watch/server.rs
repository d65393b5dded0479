//! A small HTTP server for `/metrics`, `/healthz`, `/status.json` and `/`: few connections, short
//! requests, answers that are short or written while they are read. No request changes anything.
//!
//! The server has a thread of its own, and answers whatever the watch is waiting for. Clients that
//! are slow, or say nothing, hold nobody up: each connection has a few seconds, and when there are
//! too many the oldest one goes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::address::Address;
use super::board::Board;
use super::document::Document;
use super::metrics::Metrics;
use super::page::{POLICY, Query, page};
use super::words::timestamp;
use crate::error::Error;
use crate::sync::VerbError;
use crate::threads;

/// Connections at the same time; one more ends the oldest.
const CONNECTIONS: usize = 64;
/// From the first byte of a connection to the end of its request's head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// From the first byte of a connection to its last.
const TIME: Duration = Duration::from_secs(30);
/// When the year 10000 begins, in seconds since the epoch.
const YEAR_10000: u64 = 253_402_300_800;
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

/// A server that is at work until this is dropped.
pub(super) struct Server {
    /// The address, which is news where the port was 0.
    pub(super) address: SocketAddr,
    _stop: oneshot::Sender<Infallible>,
}

/// Starts to serve.
pub(super) fn start(
    address: &Address,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
) -> Result<Server, VerbError> {
    let fail =
        |source: std::io::Error| VerbError::Error(Error::Metrics { address: address.to_string(), source });
    let resolved: Vec<SocketAddr> =
        (address.host.as_str(), address.port).to_socket_addrs().map_err(fail)?.collect();
    let listener = TcpListener::bind(&*resolved).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let local = listener.local_addr().map_err(fail)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    let (stop, stopped) = oneshot::channel();
    let site = Arc::new(Site { name: address.host.clone(), metrics, board });
    let serve = move || {
        runtime.block_on(async {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            tokio::select! {
                () = accept(listener, &site) => {}
                // Whoever holds the other end never sends: it is dropped.
                _ = stopped => {}
            }
        });
    };
    threads::start("metrics", serve).map_err(fail)?;
    Ok(Server { address: local, _stop: stop })
}

/// Everything that is served, and the name that it is served under.
struct Site {
    /// The host in the address that was asked for.
    name: String,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
}

async fn accept(listener: tokio::net::TcpListener, site: &Arc<Site>) {
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = listener.accept().await;
        open.retain(|connection| !connection.is_finished());
        if let Ok((stream, _)) = accepted {
            if open.len() >= CONNECTIONS {
                end_oldest(&mut open);
            }
            let site = Arc::clone(site);
            open.push_back(tokio::spawn(async move {
                // A client that is slow or goes away is its own problem.
                let _ = tokio::time::timeout(TIME, serve(stream, site)).await;
            }));
            // A request that has come already is answered before the next connection can push this
            // one out.
            tokio::task::yield_now().await;
        } else {
            // No descriptors left, most likely: an old connection gives one back.
            end_oldest(&mut open);
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Ends the oldest connection. Answers are short, so it is one that has not asked yet, or does not
/// read.
fn end_oldest(open: &mut VecDeque<JoinHandle<()>>) {
    if let Some(oldest) = open.pop_front() {
        oldest.abort();
    }
}

async fn serve(stream: TcpStream, site: Arc<Site>) {
    // The crate writes the date, and panics where the clock is set before 1970 or after the year
    // 9999.
    if !SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|time| time.as_secs() < YEAR_10000) {
        return;
    }
    let service = service_fn(|request| {
        let response = answer(&request, &site);
        async { Ok::<_, Infallible>(response) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A request is meant for this server. A page in somebody's browser may reach it under a name of
/// its own (DNS rebinding); then the request says that name.
fn is_meant_for(request: &Request<Incoming>, name: &str) -> bool {
    let header = request.headers().get_all(HOST).iter().map(|value| value.to_str().unwrap_or("?"));
    let target = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    header.chain(target).all(|host| is_host_of(host, name))
}

/// `host`, with or without a port, is an IP address, this machine, or `name`.
fn is_host_of(host: &str, name: &str) -> bool {
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if digits(port) && (!bare.contains(':') || bare.ends_with(']')) => bare,
        _ => host,
    };
    if let Some(address) = bare.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    bare.parse::<IpAddr>().is_ok()
        || bare.eq_ignore_ascii_case("localhost")
        || bare.eq_ignore_ascii_case(name)
}

/// The body of an answer: text, or a document that is written while the client reads.
enum Reply {
    Text(Option<Bytes>),
    Document {
        document: Document,
        /// Others have had their turn since the last piece.
        rested: bool,
    },
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Text(text) => text.take(),
            Self::Document { document, rested } => {
                // One thread serves all: between two pieces it serves somebody else.
                *rested = !*rested;
                if *rested {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                document.next().map(Bytes::from)
            }
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Text(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Document { .. } => SizeHint::default(),
        }
    }
}

/// Makes an answer that no browser keeps, frames, or takes for something else.
fn respond(status: StatusCode, kind: &'static str, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn answer(request: &Request<Incoming>, site: &Site) -> Response<Reply> {
    let text = |status: StatusCode, text: String| respond(status, TEXT, Reply::Text(Some(Bytes::from(text))));
    let ok = |kind: &'static str, text: String| respond(StatusCode::OK, kind, Reply::Text(Some(text.into())));
    let Site { metrics, board, .. } = site;
    if !is_meant_for(request, &site.name) {
        let words = "this server is asked by its IP address, as localhost, or by the name in --metrics\n";
        return text(StatusCode::FORBIDDEN, words.to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" => {
            let query = Query::parse(request.uri().query().unwrap_or_default());
            let now = timestamp(SystemTime::now());
            ok(HTML, page(&board.read(), metrics.trouble().as_deref(), &query, now))
        }
        "/status.json" => {
            let document = Document::new(board.read(), metrics.trouble(), timestamp(SystemTime::now()));
            respond(StatusCode::OK, JSON, Reply::Document { document, rested: false })
        }
        "/metrics" => ok(OPEN_METRICS, metrics.text()),
        "/healthz" => match metrics.trouble() {
            None => text(StatusCode::OK, format!("ok: {}\n", metrics.summary())),
            Some(trouble) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /, /status.json, /metrics and /healthz\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_document_leaves_turns_to_others() {
        let board = Board::new("/images.toml".as_ref(), Duration::from_secs(300));
        let document = Document::new(board.read(), None, timestamp(SystemTime::now()));
        let pieces = Document::new(board.read(), None, timestamp(SystemTime::now())).count();
        let mut reply = Reply::Document { document, rested: false };
        let mut context = Context::from_waker(std::task::Waker::noop());
        for _ in 0..pieces {
            assert!(Pin::new(&mut reply).poll_frame(&mut context).is_pending());
            assert!(matches!(Pin::new(&mut reply).poll_frame(&mut context), Poll::Ready(Some(Ok(_)))));
        }
        assert!(Pin::new(&mut reply).poll_frame(&mut context).is_pending());
        assert!(matches!(Pin::new(&mut reply).poll_frame(&mut context), Poll::Ready(None)));
    }

    #[test]
    fn only_addresses_and_names_of_ours_are_hosts_of_it() {
        let own =
            ["127.0.0.1", "10.0.0.7:9090", "[::1]:9090", "[fe80::1]", "LocalHost", "localhost:1", "Node:80"];
        for host in own {
            assert!(is_host_of(host, "node"), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:9090", "127.0.0.1.evil.example", "[evil]", "node.evil", "::x"]
        {
            assert!(!is_host_of(host, "node"), "{host}");
        }
    }
}

//! A small HTTP/1.1 server on loopback: a thread per connection, keep-alive, plain, behind TLS, or as the end
//! of a CONNECT proxy. It records every exchange, and can answer as badly as a test wants.
//!
//! Dropping a [`Server`] closes its sockets and joins its threads.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::net::TcpSocket;

/// What a client asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// `GET`, `HEAD`, …
    pub(crate) method: String,
    /// Path, without query.
    pub(crate) path: String,
    /// What follows the question mark.
    pub(crate) query: String,
    /// Headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// `host:port` of the CONNECT before it, behind a proxy.
    pub(crate) tunnel: Option<String>,
}

impl Request {
    /// A header's value, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The host that it means, without port.
    pub(crate) fn host(&self) -> &str {
        self.header("host").unwrap_or_default().split(':').next().unwrap_or_default()
    }

    /// The first value of a query parameter, percent-decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| percent_decode(value)).next()
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, code.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// How an answer is sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    /// Wait before the answer.
    pub(crate) delay: Duration,
    /// Close the connection after so many bytes of the body.
    pub(crate) cut_after: Option<u64>,
    /// Reset the connection after so many bytes of the body; what is under way may be lost.
    pub(crate) reset_after: Option<u64>,
    /// Send nothing more after so many bytes of the body, and keep the connection open.
    pub(crate) stall_after: Option<u64>,
    /// Send no faster than this.
    pub(crate) bytes_per_second: Option<u64>,
}

/// What the server answers.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Headers; `Content-Length` is added unless it is here.
    pub(crate) headers: Vec<(String, String)>,
    /// The body's bytes; a HEAD gets none of them.
    pub(crate) body: Arc<Vec<u8>>,
    /// Which of these bytes are sent.
    pub(crate) range: Range<usize>,
    /// How they are sent.
    pub(crate) shape: Shape,
}

impl Response {
    /// An answer with this body.
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::shared(status, content_type, &Arc::new(body.into()))
    }

    /// An answer with a body that others share.
    pub(crate) fn shared(status: u16, content_type: &str, body: &Arc<Vec<u8>>) -> Self {
        let range = 0..body.len();
        let response =
            Self { status, headers: Vec::new(), body: Arc::clone(body), range, shape: Shape::default() };
        response.header("Content-Type", content_type)
    }

    /// With one more header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A request and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// The request.
    pub(crate) request: Request,
    /// The answer's status.
    pub(crate) status: u16,
    /// Bytes of the body that were sent so far.
    pub(crate) sent: u64,
}

/// Makes answers.
pub(crate) type Handler = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// What stands before the handler.
#[derive(Clone, Debug)]
pub(crate) enum Front {
    /// Nothing.
    Plain,
    /// TLS.
    Tls(Arc<ServerConfig>),
    /// A CONNECT proxy through which every host is reached, all with this TLS.
    Proxy(Arc<ServerConfig>),
}

#[derive(Default)]
struct Shared {
    log: Mutex<Vec<Exchange>>,
    tunnels: Mutex<Vec<String>>,
    sockets: Mutex<Vec<TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopped: AtomicBool,
}

/// A running server.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts on a free port of 127.0.0.1.
    pub(crate) fn start(front: Front, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(socket) = socket else { continue };
                accepting.sockets.lock().unwrap().push(socket.try_clone().unwrap());
                let ended = socket.try_clone().unwrap();
                let (front, handler) = (front.clone(), Arc::clone(&handler));
                let serving = Arc::clone(&accepting);
                let thread = std::thread::spawn(move || {
                    // A client that goes away is no failure of the server.
                    let _ = serve(socket, front, &handler, &serving);
                    let _ = ended.shutdown(Shutdown::Both);
                });
                accepting.threads.lock().unwrap().push(thread);
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// `127.0.0.1:<port>`.
    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    /// Every exchange so far, in the order of the requests.
    pub(crate) fn log(&self) -> Vec<Exchange> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Forgets the exchanges so far.
    pub(crate) fn forget(&self) {
        self.shared.log.lock().unwrap().clear();
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.sockets.lock().unwrap().len()
    }

    /// The targets of all CONNECTs so far.
    pub(crate) fn tunnels(&self) -> Vec<String> {
        self.shared.tunnels.lock().unwrap().clone()
    }
}

/// The port of a server that is gone: nobody else gets the port, and who connects is refused.
#[derive(Debug)]
pub(crate) struct Gone(#[expect(dead_code, reason = "held until the test ends")] Option<TcpSocket>);

impl Server {
    /// Ends it, and keeps its port.
    pub(crate) fn gone(self) -> Gone {
        let address = self.address;
        drop(self);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        // A client of another test may have got the port at this very moment: no server, either.
        let is_bound = socket.bind(address).is_ok();
        Gone(is_bound.then_some(socket))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            // Closed already is fine.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap());
        for thread in threads {
            let _ = thread.join();
        }
    }
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

/// One connection: the stream, and what was read beyond the last request.
struct Connection {
    stream: Box<dyn Duplex>,
    socket: TcpStream,
    pending: Vec<u8>,
}

fn serve(mut socket: TcpStream, front: Front, handler: &Handler, shared: &Shared) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let raw = socket.try_clone()?;
    let mut tunnel = None;
    let stream: Box<dyn Duplex> = match front {
        Front::Plain => Box::new(socket),
        Front::Tls(config) => Box::new(secure(socket, config)?),
        Front::Proxy(config) => {
            let mut pending = Vec::new();
            let Some(request) = read_request(&mut socket, &mut pending)? else { return Ok(()) };
            shared.tunnels.lock().unwrap().push(format!("{} {}", request.method, request.path));
            if request.method != "CONNECT" {
                return socket.write_all(b"HTTP/1.1 400 Only CONNECT\r\nContent-Length: 0\r\n\r\n");
            }
            socket.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
            tunnel = Some(request.path);
            Box::new(secure(socket, config)?)
        }
    };
    let mut connection = Connection { stream, socket: raw, pending: Vec::new() };
    while let Some(mut request) = read_request(&mut connection.stream, &mut connection.pending)? {
        request.tunnel.clone_from(&tunnel);
        let number = {
            let mut log = shared.log.lock().unwrap();
            log.push(Exchange { request: request.clone(), status: 0, sent: 0 });
            log.len() - 1
        };
        let response = handler(&request);
        let sent = &mut |count: u64| {
            if let Some(exchange) = shared.log.lock().unwrap().get_mut(number) {
                exchange.status = response.status;
                exchange.sent += count;
            }
        };
        if !answer(&mut connection, &request, &response, shared, sent)? {
            break;
        }
    }
    Ok(())
}

fn secure(
    socket: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<StreamOwned<ServerConnection, TcpStream>> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, socket))
}

/// The next request, or `None` at the end of the connection.
fn read_request(stream: &mut impl Read, pending: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let mut more = |pending: &mut Vec<u8>| -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let count = stream.read(&mut buffer)?;
        pending.extend(&buffer[..count]);
        Ok(count > 0)
    };
    let end = loop {
        if let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        // A client that tries TLS first would wait long for an answer to its hello.
        if !more(pending)? || !pending[0].is_ascii_alphabetic() {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&pending[..end]).into_owned();
    pending.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut request = Request { method: words.next().unwrap_or_default().to_owned(), ..Request::default() };
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (request.path, request.query) = (path.to_owned(), query.to_owned());
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    while pending.len() < length {
        if !more(pending)? {
            return Ok(None);
        }
    }
    request.body = pending.drain(..length).collect();
    Ok(Some(request))
}

/// Sends an answer; `false` where the connection ends with it.
fn answer(
    connection: &mut Connection,
    request: &Request,
    response: &Response,
    shared: &Shared,
    sent: &mut dyn FnMut(u64),
) -> io::Result<bool> {
    let waiting = |until: Duration| {
        let start = Instant::now();
        while start.elapsed() < until && !shared.stopped.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5).min(until));
        }
    };
    waiting(response.shape.delay);
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", response.status);
    for (name, value) in &response.headers {
        head.extend([name.as_str(), ": ", value, "\r\n"]);
    }
    if !response.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head.extend(["Content-Length: ", &response.range.len().to_string(), "\r\n"]);
    }
    head += "\r\n";
    connection.stream.write_all(head.as_bytes())?;
    connection.stream.flush()?;
    sent(0);
    if request.method == "HEAD" {
        return Ok(true);
    }
    let body = &response.body[response.range.clone()];
    let Shape { cut_after, stall_after, reset_after, bytes_per_second, .. } = response.shape;
    let limit = cut_after
        .or(reset_after)
        .or(stall_after)
        .map_or(body.len(), |limit| usize::try_from(limit).map_or(body.len(), |limit| limit.min(body.len())));
    let step = bytes_per_second.map_or(64 * 1024, |rate| usize::try_from(rate / 50).unwrap().max(1));
    for chunk in body[..limit].chunks(step) {
        connection.stream.write_all(chunk)?;
        connection.stream.flush()?;
        sent(chunk.len() as u64);
        if bytes_per_second.is_some() {
            waiting(Duration::from_millis(20));
        }
        if shared.stopped.load(Ordering::SeqCst) {
            return Ok(false);
        }
    }
    if stall_after.is_some_and(|limit| limit <= body.len() as u64) {
        connection.socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        // Until the client gives up (its end closes) or the server stops.
        while !shared.stopped.load(Ordering::SeqCst) {
            match connection.socket.peek(&mut [0]) {
                Ok(0) => break,
                Ok(_) => std::thread::sleep(Duration::from_millis(20)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        return Ok(false);
    }
    if reset_after.is_some_and(|limit| limit <= body.len() as u64) {
        // Unlike a close, this ends it for all who hold the socket, without the rest.
        rustix::net::connect_unspec(&connection.socket)?;
        return Ok(false);
    }
    if cut_after.is_some_and(|limit| limit <= body.len() as u64) {
        connection.socket.shutdown(Shutdown::Both)?;
        return Ok(false);
    }
    Ok(true)
}

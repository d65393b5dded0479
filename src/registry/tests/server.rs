//! A scripted HTTP server: one closure answers every request, and can break off, stall or send
//! nonsense.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request that arrived.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// The target as sent: with the query, or a whole URL.
    pub(super) target: String,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    pub(super) fn range(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// An answer to be sent.
pub(super) struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Send so much of the body only.
    cut: Option<usize>,
    /// Say nothing then, instead of closing.
    stall: bool,
    /// Leave Content-Length out.
    unmeasured: bool,
}

impl Response {
    pub(super) fn new(status: u16, body: &[u8]) -> Self {
        Self { status, headers: Vec::new(), body: body.to_vec(), cut: None, stall: false, unmeasured: false }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self
    }

    pub(super) fn redirect(to: &str) -> Self {
        Self::new(307, b"").header("Location", to)
    }

    pub(super) fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }

    pub(super) fn stalling(mut self, at: usize) -> Self {
        self.stall = true;
        self.cut(at)
    }

    /// No answer at all.
    pub(super) fn closed() -> Self {
        Self::new(0, b"").cut(0)
    }

    pub(super) fn unmeasured(mut self) -> Self {
        self.unmeasured = true;
        self
    }
}

/// A server that runs until the process ends: test threads are cheap.
pub(super) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(super) fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into(), answer)
    }

    pub(super) fn at(host: IpAddr, answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let server = Self { address, log: Arc::clone(&log) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), log, answer) = (stream, Arc::clone(&log), Arc::clone(&answer)) else {
                    return;
                };
                std::thread::spawn(move || converse(&stream, &log, &*answer));
            }
        });
        server
    }

    /// `127.0.0.1:PORT`.
    pub(super) fn name(&self) -> String {
        self.address.to_string()
    }

    /// The same server under another host name.
    pub(super) fn other_name(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// `METHOD target` of all requests.
    pub(super) fn lines(&self) -> Vec<String> {
        self.requests().iter().map(|request| format!("{} {}", request.method, request.target)).collect()
    }
}

fn converse(stream: &TcpStream, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Response) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        log.lock().unwrap().push(request.clone());
        let response = answer(&request);
        if write_response(stream, &request, &response).is_err()
            || response.cut.is_some()
            || response.unmeasured
        {
            if response.stall {
                std::thread::sleep(Duration::from_secs(20));
            }
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    let mut next = || {
        line.clear();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let first = next()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let header = next()?;
        let Some((name, value)) = header.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: String::new() };
    let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}

fn write_response(mut stream: &TcpStream, request: &Request, response: &Response) -> std::io::Result<()> {
    if response.status == 0 {
        return Ok(());
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\n", response.status);
    for (name, value) in &response.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    let measured = response.headers.iter().any(|(name, _)| name == "Content-Length") || response.unmeasured;
    if !measured {
        write!(head, "Content-Length: {}\r\n", response.body.len()).unwrap();
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        let end = response.cut.unwrap_or(response.body.len()).min(response.body.len());
        stream.write_all(&response.body[..end])?;
    }
    stream.flush()
}

//! The name server a sandbox sees, which asks the host's resolvers on its behalf.
//!
//! Only plain questions pass: one question, no zone transfer, no update. The host's resolver may belong to a
//! private network whose zones a sandbox must not be able to change or copy. Answers are taken only from the
//! server asked, with the identifier we chose and the question we sent.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

/// The port of name servers.
pub(super) const PORT: u16 = 53;
/// Questions of one sandbox that may be unanswered at a time. One more fails at once.
const OUTSTANDING: usize = 64;
/// A question without an answer fails after this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// The next server is asked after this long.
const NEXT_SERVER: Duration = Duration::from_millis(1500);
/// A connection on which no question comes is closed after this long.
const IDLE: Duration = Duration::from_secs(20);

const HEADER: usize = 12;
const NAME: usize = 255;
const LABEL: usize = 63;

/// Response codes (RFC 1035, 4.1.1).
mod code {
    pub(super) const FORMAT_ERROR: u8 = 1;
    pub(super) const SERVER_FAILURE: u8 = 2;
    pub(super) const NOT_IMPLEMENTED: u8 = 4;
    pub(super) const REFUSED: u8 = 5;
}

/// The name servers of the host, from `/etc/resolv.conf`; read once, when a driver starts.
#[must_use]
pub(crate) fn host_resolvers() -> Vec<SocketAddr> {
    resolvers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

/// The `nameserver` lines of a `resolv.conf`, at most three as in the C library; without any, the local host's.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let found: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then(|| words.next()).flatten()
        })
        .filter_map(resolver)
        .take(3)
        .collect();
    if found.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))] } else { found }
}

fn resolver(word: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse().ok()?, PORT));
    };
    let scope = interface.parse().ok().or_else(|| nix::net::if_::if_nametoindex(interface).ok())?;
    Some(SocketAddr::V6(SocketAddrV6::new(address.parse::<Ipv6Addr>().ok()?, PORT, 0, scope)))
}

/// How a question came and is passed on.
#[derive(Debug, Clone, Copy)]
enum Transport {
    Udp,
    Tcp,
}

/// The relay of one sandbox.
#[derive(Debug, Clone)]
pub(super) struct Relay {
    servers: Arc<[SocketAddr]>,
    outstanding: Arc<Semaphore>,
    /// Without egress every question is refused.
    open: bool,
}

impl Relay {
    pub(super) fn new(servers: &[SocketAddr], open: bool) -> Self {
        Self { servers: servers.into(), outstanding: Arc::new(Semaphore::new(OUTSTANDING)), open }
    }

    /// The answer to a question that came as a datagram. `None`: not a question at all.
    pub(super) async fn datagram(self, message: Vec<u8>) -> Option<Vec<u8>> {
        self.answer(&message, Transport::Udp).await
    }

    /// Answers the questions that come over a connection, one after the other, until it ends.
    pub(super) async fn connection(self, mut stream: DuplexStream) {
        while let Ok(Ok(message)) = timeout(IDLE, read_message(&mut stream)).await {
            let Some(answer) = self.answer(&message, Transport::Tcp).await else { break };
            if write_message(&mut stream, &answer).await.is_err() {
                break;
            }
        }
    }

    async fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = match Question::read(message) {
            Ok(question) => question,
            Err(Unfit::NotAQuestion) => return None,
            Err(Unfit::Answer(code)) => return Some(failure(message, &[], code)),
        };
        if !self.open {
            return Some(failure(message, question.section, code::REFUSED));
        }
        let Ok(_place) = self.outstanding.try_acquire() else {
            tracing::debug!("a sandbox has too many unanswered name queries");
            return Some(failure(message, question.section, code::SERVER_FAILURE));
        };
        let mut query = message.to_vec();
        let id: [u8; 2] = rand::random();
        query[..2].copy_from_slice(&id);
        match self.ask(&query, question.section, transport).await {
            Some(mut answer) => {
                answer[..2].copy_from_slice(&message[..2]);
                Some(answer)
            }
            None => Some(failure(message, question.section, code::SERVER_FAILURE)),
        }
    }

    /// Asks one server after the other, around, until one answers or time is up.
    async fn ask(&self, query: &[u8], question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        for &server in self.servers.iter().cycle() {
            let until = deadline.min(Instant::now() + NEXT_SERVER);
            let attempt = async {
                match transport {
                    Transport::Udp => ask_by_udp(server, query, question).await,
                    Transport::Tcp => ask_by_tcp(server, query, question).await,
                }
            };
            match timeout_at(until, attempt).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "a name server cannot be asked");
                    // An error comes at once; waiting keeps this from turning in a circle.
                    tokio::time::sleep_until(until.min(Instant::now() + Duration::from_millis(50))).await;
                }
                Err(_elapsed) => {}
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        None
    }
}

async fn ask_by_udp(server: SocketAddr, query: &[u8], question: &[u8]) -> io::Result<Vec<u8>> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    // A socket per question: its random port is, with the identifier, what a forger must guess.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], query, question) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, query: &[u8], question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    let answer = read_message(&mut stream).await?;
    if answers(&answer, query, question) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

async fn read_message(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut (impl AsyncWriteExt + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

/// A question fit to be passed on.
struct Question<'a> {
    /// Name, type and class as they stand in the message.
    section: &'a [u8],
}

/// Why a message is not passed on.
enum Unfit {
    NotAQuestion,
    /// Answered by us with this code.
    Answer(u8),
}

impl<'a> Question<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Unfit> {
        const RESPONSE: u8 = 0x80;
        const OPCODE: u8 = 0x78;
        if message.len() < HEADER || message[2] & RESPONSE != 0 {
            return Err(Unfit::NotAQuestion);
        }
        if message[2] & OPCODE != 0 {
            return Err(Unfit::Answer(code::NOT_IMPLEMENTED));
        }
        let count = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        if count(4) != 1 || count(6) != 0 || count(8) != 0 {
            return Err(Unfit::Answer(code::FORMAT_ERROR));
        }
        let section = question_section(message).ok_or(Unfit::Answer(code::FORMAT_ERROR))?;
        let kind = u16::from_be_bytes([section[section.len() - 4], section[section.len() - 3]]);
        const INCREMENTAL_TRANSFER: u16 = 251;
        const TRANSFER: u16 = 252;
        if matches!(kind, INCREMENTAL_TRANSFER | TRANSFER) {
            return Err(Unfit::Answer(code::REFUSED));
        }
        Ok(Self { section })
    }
}

/// The bytes of the first question: uncompressed name, type, class.
fn question_section(message: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        if length > LABEL {
            return None;
        }
        at += 1 + length;
        if at - HEADER > NAME {
            return None;
        }
        if length == 0 {
            return message.get(HEADER..at + 4);
        }
    }
}

/// Whether `message` answers `query`: its identifier, and its question but for the case of letters. A server that
/// reports an error may leave the question out.
fn answers(message: &[u8], query: &[u8], question: &[u8]) -> bool {
    if message.len() < HEADER || message[2] & 0x80 == 0 || message[..2] != query[..2] {
        return false;
    }
    let failed = message[3] & 0x0f != 0;
    if failed && message[4..6] == [0, 0] {
        return true;
    }
    question_section(message).is_some_and(|section| section.eq_ignore_ascii_case(question))
}

/// An answer without records.
fn failure(message: &[u8], question: &[u8], code: u8) -> Vec<u8> {
    const RESPONSE: u8 = 0x80;
    const OPCODE_AND_RECURSION_DESIRED: u8 = 0x79;
    const RECURSION_AVAILABLE: u8 = 0x80;
    let mut answer = Vec::with_capacity(HEADER + question.len());
    answer.extend_from_slice(&message[..2]);
    answer.push(RESPONSE | message[2] & OPCODE_AND_RECURSION_DESIRED);
    answer.push(RECURSION_AVAILABLE | code);
    answer.extend_from_slice(&[0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    answer
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A question for the address of `name`.
    pub(in super::super) fn query(id: u16, name: &str) -> Vec<u8> {
        let mut message = id.to_be_bytes().to_vec();
        message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).expect("a label"));
            message.extend_from_slice(label.as_bytes());
        }
        message.extend_from_slice(&[0, 0, 1, 0, 1]);
        message
    }

    #[test]
    fn resolv_conf() {
        let text = "# a comment\nsearch example.com\nnameserver 10.0.0.53\n  nameserver\t2001:db8::53 \nnameserver fe80::1%7\nnameserver nonsense\n";
        let expected: Vec<SocketAddr> = vec![
            "10.0.0.53:53".parse().expect("an address"),
            "[2001:db8::53]:53".parse().expect("an address"),
            SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().expect("an address"), 53, 0, 7)),
        ];
        assert_eq!(resolvers(text), expected);
        assert_eq!(resolvers(""), vec![SocketAddr::from(([127, 0, 0, 1], 53))]);
    }

    fn code_of(message: &[u8]) -> Option<u8> {
        match Question::read(message) {
            Ok(_) => None,
            Err(Unfit::NotAQuestion) => Some(255),
            Err(Unfit::Answer(code)) => Some(code),
        }
    }

    #[test]
    fn only_plain_questions_pass() {
        let plain = query(1, "example.com");
        assert_eq!(code_of(&plain), None);

        let mut update = plain.clone();
        update[2] |= 5 << 3;
        assert_eq!(code_of(&update), Some(code::NOT_IMPLEMENTED));

        let mut transfer = plain.clone();
        let kind = transfer.len() - 3;
        transfer[kind] = 252;
        assert_eq!(code_of(&transfer), Some(code::REFUSED));

        let mut response = plain.clone();
        response[2] |= 0x80;
        assert_eq!(code_of(&response), Some(255));

        let mut two = plain.clone();
        two[5] = 2;
        assert_eq!(code_of(&two), Some(code::FORMAT_ERROR));

        let mut pointer = plain.clone();
        pointer[HEADER] = 0xc0;
        assert_eq!(code_of(&pointer), Some(code::FORMAT_ERROR));
        assert_eq!(code_of(&plain[..plain.len() - 1]), Some(code::FORMAT_ERROR));
    }

    #[test]
    fn an_answer_must_fit_the_question() {
        let asked = query(7, "example.com");
        let section = &asked[HEADER..];
        let mut answer = asked.clone();
        answer[2] |= 0x80;
        assert!(answers(&answer, &asked, section));
        assert!(!answers(&asked, &asked, section), "a question is no answer");

        let mut other_case = answer.clone();
        other_case[HEADER + 1] = b'E';
        assert!(answers(&other_case, &asked, section));

        let mut other_id = answer.clone();
        other_id[1] ^= 1;
        assert!(!answers(&other_id, &asked, section));

        let mut other_name = query(7, "example.org");
        other_name[2] |= 0x80;
        assert!(!answers(&other_name, &asked, section));

        assert!(answers(&failure(&asked, &[], code::REFUSED), &asked, section));
    }

    proptest! {
        #[test]
        fn any_message_can_be_looked_at(message in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Err(Unfit::Answer(code)) = Question::read(&message) {
                prop_assert_eq!(failure(&message, &[], code).len(), HEADER);
            }
            answers(&message, &query(1, "a.b"), &[]);
        }
    }
}

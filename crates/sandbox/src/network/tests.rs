//! The stack against a real kernel: every test runs in a process of its own with a fresh network namespace that
//! plays the host, and a thread with another one that plays the sandbox, joined by a TUN device. Works as root and,
//! where user namespaces are allowed, as anybody.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(unsafe_code, reason = "namespaces are entered between fork and exec")]
#![expect(clippy::disallowed_methods, reason = "a test tells its other process who it is")]
#![expect(clippy::print_stderr, reason = "the benchmark reports")]

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};

use super::{Handle, Policy, RESOLVER, dns, interface, serve};
use crate::Egress;

const INSIDE: &str = "BACKLOT_NETWORK_TEST";

/// Runs `body` in a process with a network namespace of its own that has nothing but loopback, with 10.9.0.1 and
/// fd99::1 as further addresses that stand for the world.
fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        interface::raise_loopback("10.9.0.1".parse().unwrap(), "fd99::1".parse().unwrap()).unwrap();
        return body();
    }
    let uid = nix::unistd::getuid();
    let (uid_map, gid_map) = (format!("0 {uid} 1"), format!("0 {} 1", nix::unistd::getgid()));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("network::tests::{name}"), "--nocapture", "--include-ignored"]).env(INSIDE, name);
    // SAFETY: the closure only makes system calls; the strings were made before.
    unsafe {
        command.pre_exec(move || {
            if uid.is_root() {
                return Ok(unshare(CloneFlags::CLONE_NEWNET)?);
            }
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", &uid_map)?;
            std::fs::write("/proc/self/gid_map", &gid_map)
        });
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
    assert!(output.status.success() && text.contains("1 passed"), "{name} failed:\n{text}");
    for line in text.lines().filter(|line| line.starts_with("measured")) {
        eprintln!("{line}");
    }
}

/// A sandbox's network: closures run on its thread, and their sockets live in its namespace.
struct Inside {
    work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Inside {
    fn new() -> (Self, OwnedFd) {
        let (work, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (made, device) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            made.send(interface::open().unwrap()).unwrap();
            for job in jobs {
                job();
            }
        });
        (Self { work }, device.recv().unwrap())
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.work.send(Box::new(move || drop(done.send(job())))).unwrap();
        result.recv().expect("the job inside the sandbox panicked")
    }
}

/// A sandbox and its served network.
struct Network {
    inside: Inside,
    _runtime: tokio::runtime::Runtime,
    _handle: Handle,
}

fn start(policy: Policy) -> Network {
    let (inside, device) = Inside::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let handle = {
        let _context = runtime.enter();
        serve(device, policy).unwrap()
    };
    Network { inside, _runtime: runtime, _handle: handle }
}

const HOST: &str = "127.0.0.1";

/// Opens what stands for the world.
fn world() -> Policy {
    Policy { allow: vec!["10.9.0.0/16".parse().unwrap()], ..Policy::default() }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("10.9.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// Accepts connections for ever and sends back what comes.
fn echo(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let _ended = io::copy(&mut stream, &mut writer);
                let _gone = writer.shutdown(Shutdown::Write);
            });
        }
    });
}

/// Bytes that differ everywhere, so that lost, repeated or swapped pieces show.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

#[test]
fn a_permitted_destination_is_reached() {
    isolated("a_permitted_destination_is_reached", || {
        let network = start(world());
        let (listener, address) = listen();
        echo(listener);
        let answer = network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).unwrap();
            buffer
        });
        assert_eq!(&answer, b"hello");
    });
}

#[test]
fn ipv6_destinations_are_reached() {
    isolated("ipv6_destinations_are_reached", || {
        let network = start(Policy { allow: vec!["fd99::/64".parse().unwrap()], ..Policy::default() });
        let listener = TcpListener::bind("[fd99::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        echo(listener);
        // The kernel takes some milliseconds to route a new address to itself.
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = connect(address) {
            assert!(Instant::now() < deadline, "{error}");
            thread::sleep(Duration::from_millis(2));
        }
        let datagrams = UdpSocket::bind("[fd99::1]:0").unwrap();
        let datagram_address = datagrams.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
                datagrams.send_to(&buffer[..length], from).unwrap();
            }
        });
        network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"hello");

            let socket = UdpSocket::bind("[::]:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket.connect(datagram_address).unwrap();
            socket.send(b"hello").unwrap();
            let mut buffer = [0; 64];
            assert_eq!(socket.recv(&mut buffer).unwrap(), 5);

            socket.connect("[fd98::1]:9").unwrap();
            socket.send(b"refused").unwrap();
            assert_eq!(socket.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
    });
}

#[test]
fn the_gateway_is_reached_also_without_egress() {
    isolated("the_gateway_is_reached_also_without_egress", || {
        let listener = TcpListener::bind((HOST, 0)).unwrap();
        let gateway = listener.local_addr().unwrap();
        echo(listener);
        let network = start(Policy { egress: Egress::None, gateway: Some(gateway), ..Policy::default() });
        network.inside.run(move || {
            let mut stream = connect(crate::GATEWAY.parse().unwrap()).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"hello");
            for elsewhere in ["169.254.1.1:81", "169.254.1.2:80", "192.0.2.1:80"] {
                let error = connect(elsewhere.parse().unwrap()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{elsewhere}");
            }
        });
    });
}

#[test]
fn refused_destinations_are_refused_at_once_and_never_connected() {
    isolated("refused_destinations_are_refused_at_once_and_never_connected", || {
        let (listener, own) = listen();
        listener.set_nonblocking(true).unwrap();
        let network = start(Policy::default());
        network.inside.run(move || {
            // The last one is the host's own address with a listener that would answer.
            let mut all: Vec<SocketAddr> = [
                "10.0.0.1:80",
                "172.16.0.1:80",
                "192.168.1.1:80",
                "100.64.0.1:80",
                "169.254.169.254:80",
                "10.0.2.3:80",
                "1.1.1.1:25",
            ]
            .map(|address| address.parse().unwrap())
            .to_vec();
            all.push(own);
            all.extend(
                ["[fd12::1]:80", "[64:ff9b::a00:1]:80", "[2002:a00:1::1]:80"]
                    .map(|address| address.parse::<SocketAddr>().unwrap()),
            );
            for address in all {
                let error = connect(address).unwrap_err();
                let refused = matches!(error.kind(), io::ErrorKind::ConnectionRefused);
                assert!(refused, "{address}: {error}");
            }
        });
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "somebody got through");
    });
}

#[test]
fn a_dead_destination_is_refused_like_on_the_host() {
    isolated("a_dead_destination_is_refused_like_on_the_host", || {
        let network = start(world());
        let (listener, address) = listen();
        drop(listener);
        let kind = network.inside.run(move || connect(address).unwrap_err().kind());
        assert_eq!(kind, io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn ten_megabytes_arrive_whole_in_both_directions_at_once() {
    isolated("ten_megabytes_arrive_whole_in_both_directions_at_once", || {
        const SIZE: usize = 10 << 20;
        let network = start(world());
        let (listener, address) = listen();
        let host = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            let sender = thread::spawn(move || {
                writer.write_all(&pattern(SIZE, 1)).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            sender.join().unwrap();
            received
        });
        let received = network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let sender = thread::spawn(move || {
                writer.write_all(&pattern(SIZE, 2)).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            sender.join().unwrap();
            received
        });
        assert!(received == pattern(SIZE, 1), "what the host sent arrived changed ({} bytes)", received.len());
        let received = host.join().unwrap();
        assert!(received == pattern(SIZE, 2), "what the sandbox sent arrived changed ({} bytes)", received.len());
    });
}

#[test]
fn either_side_may_stop_sending_first() {
    isolated("either_side_may_stop_sending_first", || {
        let network = start(world());
        // HTTP/1.0 upload: the program ends its request by closing its side, then reads a long answer.
        let (listener, address) = listen();
        let host = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).unwrap();
            thread::sleep(Duration::from_millis(300));
            stream.write_all(&pattern(1 << 20, 3)).unwrap();
            request
        });
        let answer = network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            stream.write_all(b"request").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        });
        assert!(answer == pattern(1 << 20, 3));
        assert_eq!(host.join().unwrap(), b"request");

        // The server says all it has to say and closes its side, then reads a long upload.
        let (listener, address) = listen();
        let host = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"go on").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut upload = Vec::new();
            stream.read_to_end(&mut upload).unwrap();
            upload
        });
        network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"go on");
            thread::sleep(Duration::from_millis(300));
            stream.write_all(&pattern(1 << 20, 4)).unwrap();
        });
        assert!(host.join().unwrap() == pattern(1 << 20, 4));
    });
}

#[test]
fn a_reset_reaches_the_other_side_as_a_reset() {
    isolated("a_reset_reaches_the_other_side_as_a_reset", || {
        let network = start(world());
        let (listener, address) = listen();
        let host = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap_err().kind()
        });
        network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            stream.write_all(b"half of an upload").unwrap();
            thread::sleep(Duration::from_millis(100));
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        });
        assert_eq!(host.join().unwrap(), io::ErrorKind::ConnectionReset);

        let (listener, address) = listen();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0]).unwrap();
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        });
        let kind = network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            stream.write_all(b"x").unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap_err().kind()
        });
        assert_eq!(kind, io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn many_connections_at_once_keep_their_bytes_apart() {
    isolated("many_connections_at_once_keep_their_bytes_apart", || {
        const CONNECTIONS: u64 = 200;
        let network = start(world());
        let (listener, address) = listen();
        echo(listener);
        network.inside.run(move || {
            let all: Vec<_> = (1..=CONNECTIONS)
                .map(|seed| {
                    thread::spawn(move || {
                        let mut stream = connect(address).unwrap();
                        let sent = pattern(100_000, seed * 7919);
                        let mut writer = stream.try_clone().unwrap();
                        let copy = sent.clone();
                        let sender = thread::spawn(move || {
                            writer.write_all(&copy).unwrap();
                            writer.shutdown(Shutdown::Write).unwrap();
                        });
                        let mut received = Vec::new();
                        stream.read_to_end(&mut received).unwrap();
                        sender.join().unwrap();
                        assert!(received == sent, "connection {seed}");
                    })
                })
                .collect();
            for one in all {
                one.join().unwrap();
            }
        });
    });
}

#[test]
fn one_connection_too_many_is_refused_and_the_place_is_free_again_afterwards() {
    isolated("one_connection_too_many_is_refused_and_the_place_is_free_again_afterwards", || {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 4096, 4096).unwrap();
        let network = start(world());
        let (listener, address) = listen();
        let kept = thread::spawn(move || {
            let all: Vec<_> = (0..super::TCP_FLOWS).map(|_| listener.accept().unwrap()).collect();
            (all, listener)
        });
        let mut held =
            network.inside.run(move || (0..super::TCP_FLOWS).map(|_| connect(address).unwrap()).collect::<Vec<_>>());
        let (mut ends, listener) = kept.join().unwrap();
        let kind = network.inside.run(move || connect(address).unwrap_err().kind());
        assert_eq!(kind, io::ErrorKind::ConnectionRefused);

        drop(ends.pop());
        drop(held.pop());
        echo(listener);
        // Eventually: the closing takes a few packets.
        let deadline = Instant::now() + Duration::from_secs(10);
        while network.inside.run(move || connect(address).is_err()) {
            assert!(Instant::now() < deadline, "the place of a closed connection stays taken");
            thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_reader_that_stops_holds_back_the_writer() {
    isolated("a_reader_that_stops_holds_back_the_writer", || {
        let network = start(world());
        let (listener, address) = listen();
        // The host never reads: the program's writes must come to a halt, long before memory does.
        let written = network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
            let chunk = vec![0; 1 << 20];
            let mut written = 0;
            while let Ok(count) = stream.write(&chunk) {
                written += count;
                assert!(written < 256 << 20, "nothing holds the writer back");
            }
            written
        });
        assert!(written > 0);
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut received = 0;
        let mut buffer = vec![0; 1 << 20];
        while received < written {
            received += stream.read(&mut buffer).unwrap();
        }
    });
}

/// A name server that answers every question with itself, and before that with two forgeries.
fn name_server(address: &str) -> SocketAddr {
    let socket = UdpSocket::bind(address).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            let mut forged = answer.clone();
            forged[0] ^= 0xff;
            socket.send_to(&forged, from).unwrap();
            let mut other = answer.clone();
            other[13] ^= 0x55;
            socket.send_to(&other, from).unwrap();
            socket.send_to(&answer, from).unwrap();
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut message).unwrap();
            message[2] |= 0x80;
            stream.write_all(&[&length[..], &message].concat()).unwrap();
        }
    });
    address
}

fn resolver() -> SocketAddr {
    SocketAddr::new(RESOLVER, dns::PORT)
}

fn ask(query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.connect(resolver()).unwrap();
    socket.send(query).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

#[test]
fn names_are_resolved_through_the_hosts_name_server() {
    isolated("names_are_resolved_through_the_hosts_name_server", || {
        // The first server is dead, and both are where the sandbox could never go itself.
        let dead = UdpSocket::bind((HOST, 0)).unwrap().local_addr().unwrap();
        let network = start(Policy { resolvers: vec![dead, name_server("127.0.0.1:0")], ..Policy::default() });
        let query = dns::tests::query(0x1234, "example.com");
        let mut expected = query.clone();
        expected[2] |= 0x80;
        let (by_udp, by_tcp) = network.inside.run(move || {
            let by_udp = ask(&query);
            let mut stream = connect(resolver()).unwrap();
            let mut by_tcp = Vec::new();
            for _ in 0..2 {
                let length = u16::try_from(query.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], &query].concat()).unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                by_tcp = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut by_tcp).unwrap();
            }
            (by_udp, by_tcp)
        });
        assert_eq!(by_udp, expected);
        assert_eq!(by_tcp, expected);
    });
}

#[test]
fn without_egress_names_are_refused() {
    isolated("without_egress_names_are_refused", || {
        let resolvers = vec![name_server("127.0.0.1:0")];
        let network = start(Policy { egress: Egress::None, resolvers, ..Policy::default() });
        let answer = network.inside.run(|| ask(&dns::tests::query(9, "example.com")));
        assert_eq!(answer[..2], [0, 9]);
        assert_eq!(answer[3] & 0x0f, 5, "REFUSED");
    });
}

#[test]
fn a_silent_name_server_becomes_a_failure() {
    isolated("a_silent_name_server_becomes_a_failure", || {
        let silent = UdpSocket::bind((HOST, 0)).unwrap();
        let network = start(Policy { resolvers: vec![silent.local_addr().unwrap()], ..Policy::default() });
        let answer = network.inside.run(|| ask(&dns::tests::query(9, "example.com")));
        assert_eq!(answer[3] & 0x0f, 2, "SERVFAIL");
    });
}

#[test]
fn datagrams_go_to_permitted_destinations_only() {
    isolated("datagrams_go_to_permitted_destinations_only", || {
        let network = start(world());
        let server = UdpSocket::bind("10.9.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                server.send_to(&buffer[..length], from).unwrap();
            }
        });
        network.inside.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket.connect(address).unwrap();
            for size in [0, 1, 1400, 60_000] {
                let sent = pattern(size, 5);
                socket.send(&sent).unwrap();
                let mut buffer = vec![0; 65_536];
                let length = socket.recv(&mut buffer).unwrap();
                assert!(buffer[..length] == sent, "{size} bytes");
            }
            for refused in ["127.0.0.2:53", "10.8.0.1:53", "169.254.169.254:53", "10.0.2.3:54", "169.254.1.1:80"] {
                if refused.starts_with("127.") {
                    continue; // the sandbox's own loopback
                }
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                socket.connect(refused).unwrap();
                socket.send(b"x").unwrap();
                assert_eq!(socket.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{refused}");
            }
        });
    });
}

#[test]
fn more_conversations_than_places_end_the_oldest_only() {
    isolated("more_conversations_than_places_end_the_oldest_only", || {
        let network = start(world());
        let server = UdpSocket::bind("10.9.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                server.send_to(&buffer[..length], from).unwrap();
            }
        });
        network.inside.run(move || {
            for _ in 0..3 * super::UDP_FLOWS {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                socket.connect(address).unwrap();
                socket.send(b"x").unwrap();
                assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1);
            }
        });
    });
}

#[test]
fn garbage_does_not_stop_the_stack() {
    isolated("garbage_does_not_stop_the_stack", || {
        let network = start(world());
        let (listener, address) = listen();
        echo(listener);
        network.inside.run(move || {
            use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, sendto};
            let raw = nix::sys::socket::socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), None);
            // IPPROTO_RAW: the packet's own header is sent.
            // SAFETY: takes no pointers.
            let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW) };
            assert!(fd >= 0 || raw.is_ok(), "{}", io::Error::last_os_error());
            let mut good = connect(address).unwrap();
            let ours = good.local_addr().unwrap();
            let (SocketAddr::V4(from), SocketAddr::V4(to)) = (ours, address) else { panic!("IPv4") };
            let noise = pattern(400_000, 77);
            for (index, chunk) in noise.chunks_exact(100).enumerate() {
                let mut packet = chunk.to_vec();
                packet[0] = 0x45 + u8::from(index % 5 == 0) * 3;
                packet[2..4].copy_from_slice(&100_u16.to_be_bytes());
                packet[6..8].fill(0);
                packet[9] = [6, 17, 1, 58, 6][index % 5];
                packet[12..16].copy_from_slice(&from.ip().octets());
                packet[16..20].copy_from_slice(&to.ip().octets());
                if index % 2 == 0 {
                    // Straight at the open connection, with nonsense for numbers and flags.
                    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
                    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
                    // Not an in-window reset, which may rightly end it: those need the exact number (RFC 5961).
                    packet[33] &= !0x04;
                }
                let target = SockaddrIn::from(to);
                let _refused = sendto(fd, &packet, &target, MsgFlags::empty());
            }
            good.write_all(b"still here").unwrap();
            let mut buffer = [0; 10];
            good.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"still here");
            // and new ones, too
            connect(address).unwrap();
        });
    });
}

/// A packet that begins right and is then changed in a few places.
fn mutant(noise: &mut impl Iterator<Item = u8>, gateway: SocketAddr) -> Vec<u8> {
    let mut byte = || noise.next().unwrap();
    let v6 = byte() < 40;
    let udp = byte() < 60;
    let (source, target): (SocketAddr, SocketAddr) = match (v6, byte() % 3) {
        (true, _) => ("[fd00::15]:4000".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap()),
        (false, 0) => ("10.0.2.15:4000".parse().unwrap(), SocketAddr::new(RESOLVER, 53)),
        (false, _) => (SocketAddr::new("10.0.2.15".parse().unwrap(), 4000 + u16::from(byte() % 8)), gateway),
    };
    let body: Vec<u8> = (0..20 + byte() % 60).map(|_| byte()).collect();
    let mut packet = super::packet::udp(source, target, &body).unwrap();
    let header = if v6 { 40 } else { 20 };
    if !udp {
        packet[if v6 { 6 } else { 9 }] = 6;
        // Data offset and flags: mostly a plain SYN or ACK with options.
        packet[header + 12] = 0x50 + (byte() % 4) * 0x10;
        packet[header + 13] = [0x02, 0x10, 0x18, 0x11, 0x12, byte()][usize::from(byte() % 6)];
    }
    for _ in 0..byte() % 4 {
        let place = usize::from(byte()) % packet.len();
        packet[place] = byte();
    }
    packet.truncate(packet.len() - usize::from(byte() < 20) * usize::from(byte() % 20));
    packet
}

/// No kernel in between here, so packets come that no kernel would send.
#[test]
fn no_packet_panics_or_stops_the_stack() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let policy = Policy {
        gateway: Some(listener.local_addr().unwrap()),
        resolvers: vec!["127.0.0.1:9".parse().unwrap()],
        ..Policy::default()
    };
    echo(listener);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::sockopt::set_socket_timeout(&ours, rustix::net::sockopt::Timeout::Recv, Some(Duration::from_secs(10)))
        .unwrap();
    let handle = {
        let _context = runtime.enter();
        serve(theirs, policy).unwrap()
    };
    let gateway: SocketAddr = crate::GATEWAY.parse().unwrap();
    let mut noise = pattern(4 << 20, 99).into_iter();
    for _ in 0..20_000 {
        rustix::io::write(&ours, &mutant(&mut noise, gateway)).unwrap();
        // Drain, so that answers find room.
        while rustix::net::recv(&ours, &mut [0_u8; 2048][..], rustix::net::RecvFlags::DONTWAIT).is_ok() {}
    }
    assert!(!handle.task.is_finished(), "the stack ended");
    // A last well-formed question must still be answered.
    let query =
        super::packet::udp("10.0.2.15:777".parse().unwrap(), resolver(), &dns::tests::query(7, "example.com")).unwrap();
    rustix::io::write(&ours, &query).unwrap();
    loop {
        let mut buffer = [0_u8; 2048];
        let (_, length) = rustix::net::recv(&ours, &mut buffer[..], rustix::net::RecvFlags::empty()).unwrap();
        let answer = super::packet::parse(&buffer[..length]);
        if answer.is_some_and(|answer| answer.source == resolver() && answer.destination.port() == 777) {
            break;
        }
    }
}

#[test]
fn dropping_the_handle_ends_the_connections() {
    isolated("dropping_the_handle_ends_the_connections", || {
        let network = start(world());
        let (listener, address) = listen();
        let held = network.inside.run(move || connect(address).unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let Network { inside, _runtime: runtime, _handle: handle } = network;
        drop(handle);
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "the host's end is closed");
        drop((held, inside, runtime));
    });
}

/// Figures, not assertions: run with `--run-ignored all` and `--no-capture`.
#[test]
#[ignore = "a benchmark"]
fn throughput_and_latency() {
    isolated("throughput_and_latency", || {
        const SIZE: usize = 1 << 30;
        let listener = TcpListener::bind((HOST, 0)).unwrap();
        let gateway = listener.local_addr().unwrap();
        let network = start(Policy { gateway: Some(gateway), ..Policy::default() });
        let gbits = |began: Instant| SIZE as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9;
        let address: SocketAddr = crate::GATEWAY.parse().unwrap();

        let server = listener.try_clone().unwrap();
        let host = thread::spawn(move || io::copy(&mut server.accept().unwrap().0, &mut io::sink()).unwrap());
        let began = Instant::now();
        network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            let chunk = vec![7; 256 * 1024];
            for _ in 0..SIZE / chunk.len() {
                stream.write_all(&chunk).unwrap();
            }
        });
        host.join().unwrap();
        eprintln!("measured: out of the sandbox {:.2} Gbit/s", gbits(began));

        let server = listener.try_clone().unwrap();
        thread::spawn(move || {
            let mut stream = server.accept().unwrap().0;
            let chunk = vec![7; 256 * 1024];
            for _ in 0..SIZE / chunk.len() {
                stream.write_all(&chunk).unwrap();
            }
        });
        let began = Instant::now();
        network.inside.run(move || {
            let mut stream = connect(address).unwrap();
            let mut buffer = vec![0; 256 * 1024];
            while stream.read(&mut buffer).unwrap() > 0 {}
        });
        eprintln!("measured: into the sandbox {:.2} Gbit/s", gbits(began));

        echo(listener);
        let round_trips = |mut stream: TcpStream| {
            stream.set_nodelay(true).unwrap();
            let mut times: Vec<Duration> = (0..5000)
                .map(|_| {
                    let began = Instant::now();
                    stream.write_all(&[1; 200]).unwrap();
                    stream.read_exact(&mut [0; 200]).unwrap();
                    began.elapsed()
                })
                .collect();
            times.sort();
            (times[times.len() / 2], times[times.len() * 99 / 100])
        };
        let direct = round_trips(connect(gateway).unwrap());
        let through = network.inside.run(move || round_trips(connect(address).unwrap()));
        eprintln!("measured: round trip of 200 bytes p50/p99: directly {direct:?}, through the stack {through:?}");
        let opening = |address: SocketAddr| {
            let mut times: Vec<Duration> = (0..500)
                .map(|_| {
                    let began = Instant::now();
                    let mut stream = connect(address).unwrap();
                    stream.write_all(b"x").unwrap();
                    stream.read_exact(&mut [0]).unwrap();
                    began.elapsed()
                })
                .collect();
            times.sort();
            (times[times.len() / 2], times[times.len() * 99 / 100])
        };
        let direct = opening(gateway);
        let through = network.inside.run(move || opening(address));
        let idle = network.inside.run(move || (0..100).map(|_| connect(address).unwrap()).collect::<Vec<_>>());
        thread::sleep(Duration::from_millis(500));
        let processor = || {
            let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
            usage.user_time() + usage.system_time()
        };
        let before = processor();
        thread::sleep(Duration::from_secs(2));
        eprintln!("measured: processor time of 100 idle connections in 2 s: {:?}", processor() - before);
        drop(idle);
        eprintln!(
            "measured: connect and one byte there and back p50/p99: directly {direct:?}, through the stack {through:?}"
        );
    });
}

//! A board whose entropy counter cannot be committed makes no key and runs no TLS, and says so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod qemu {
    use std::{
        io::ErrorKind,
        net::{Ipv4Addr, TcpListener},
        thread,
        time::{Duration, Instant},
    };

    use muster_firmware::platform::Layout;
    use muster_hil::{
        qemu::{BOARD_PATIENCE, Board},
        workbench::{Workbench, refusal},
    };
    use muster_shared::{
        factory::{Entropy, Refusal, Request, Stage},
        vendor::SeedRecord,
    };

    /// What may become of the two seed records, each of which leaves no counter to commit.
    fn damages() -> [(&'static str, Vec<u8>); 3] {
        let units = Layout::ENTROPY.len();
        let last = SeedRecord { counter: u64::MAX, seed: [7; 32] }.to_bytes();
        let mut spent = vec![0xff; units];
        spent[..last.len()].copy_from_slice(&last);
        [
            ("both records erased", vec![0xff; units]),
            ("every bit worn to zero", vec![0; units]),
            ("a counter that has no next", spent),
        ]
    }

    fn damage(board: &mut Board, octets: &[u8]) {
        board.power_cut();
        board.flash().write(Layout::ENTROPY.start, octets).unwrap();
        board.power_on().unwrap();
    }

    #[test]
    fn a_blank_board_without_entropy_makes_no_key() {
        let mut bench = Workbench::new().unwrap();
        assert_ne!(bench.cable().unwrap().hello().unwrap().entropy, Entropy::Failed);
        for (name, octets) in damages() {
            damage(&mut bench.board, &octets);
            let mut cable = bench.cable().unwrap();
            let hello = cable.hello().unwrap();
            assert_eq!((hello.entropy, hello.stage), (Entropy::Failed, Stage::Blank), "{name}");
            assert_eq!(refusal(&mut cable, &Request::MakeKey).unwrap(), Some(Refusal::Entropy), "{name}");
            assert_eq!(cable.hello().unwrap().stage, Stage::Blank, "{name}");
        }
    }

    #[test]
    fn a_board_without_entropy_opens_no_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut bench = Workbench::new().unwrap();
        bench.endpoint.port = listener.local_addr().unwrap().port();
        bench.provision(&mut bench.cable().unwrap()).unwrap();
        // With its entropy it connects: the listener would see it if it did.
        let until = Instant::now() + BOARD_PATIENCE;
        while !took_one(&listener) {
            assert!(Instant::now() < until, "a sound board does not connect");
            thread::sleep(Duration::from_millis(20));
        }
        for (name, octets) in damages() {
            bench.board.power_cut();
            while took_one(&listener) {}
            damage(&mut bench.board, &octets);
            let (line, _) = bench.board.wait_for(0, "muster tls T03 ", BOARD_PATIENCE).unwrap();
            assert!(line.text.contains("no TLS, stop"), "{name}: {}", line.text);
            // The retries of a board that has not stopped come within `retry_s_max`.
            thread::sleep(Duration::from_secs(u64::from(bench.endpoint.retry_s_max) * 2));
            assert!(!took_one(&listener), "{name}: the board connected");
            assert!(bench.board.is_on(), "{name}");
        }
    }

    fn took_one(listener: &TcpListener) -> bool {
        match listener.accept() {
            Ok(_) => true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            Err(e) => panic!("{e}"),
        }
    }
}

//! Where the init of a sandbox is reached, and what proves that we are its host: what the sandbox's folder says.
//!
//! Without a file `address` it is the control socket, which init has inherited. A machine has one, such as
//! `hybrid:vsock.sock:1024`, and beside it `token`, which is new for each start. Both are gone with the end.

use std::{
    fs, io,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use agent_protocol::{
    address::Address,
    handshake::{TOKEN_BYTES, Token},
};
use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

use super::atomic::{self, Survives};
use crate::client::Target;

/// The socket that init inherits listening.
pub(crate) const SOCKET_FILE: &str = "control.sock";

const ADDRESS_FILE: &str = "address";
const TOKEN_FILE: &str = "token";

/// A path has 4095 bytes at most; what stands around it is shorter than the rest.
const MAX_ADDRESS_BYTES: u64 = 8 * 1024;

/// How to call the init of one sandbox.
#[derive(Debug)]
pub(crate) struct Way {
    folder: OwnedFd,
    address: Option<Address>,
    token: Token,
}

impl Way {
    /// Reads what the folder says. Where it says nothing, that costs one failed open.
    pub(crate) fn of(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let Some(address) = read(&folder, ADDRESS_FILE, MAX_ADDRESS_BYTES)? else {
            return Ok(Self { folder, address: None, token: Token::default() });
        };
        let address = String::from_utf8_lossy(&address);
        let address = address.trim_end().parse().map_err(io::Error::other)?;
        let token = match read(&folder, TOKEN_FILE, TOKEN_BYTES as u64)?.map(TryFrom::try_from) {
            Some(Ok(token)) => Token(token),
            Some(Err(_)) => return Err(io::Error::other("the sandbox's token is cut short")),
            None => Token::default(),
        };
        Ok(Self { folder, address: Some(address), token })
    }

    /// Whom to call. A path that is not absolute is one in the folder.
    pub(crate) fn target(&self) -> Target<'_> {
        let folder = self.folder.as_fd();
        match &self.address {
            None => Target::InFolder { folder, name: Path::new(SOCKET_FILE) },
            Some(Address::Unix(path)) if path.is_relative() => Target::InFolder { folder, name: path },
            Some(Address::Hybrid { path, port }) if path.is_relative() => {
                Target::DeviceInFolder { folder, name: path, port: *port }
            }
            Some(address) => Target::Address(address),
        }
    }

    /// What init wants to see.
    pub(crate) fn token(&self) -> &Token {
        &self.token
    }
}

/// Writes down how an init that is to come will be reached. The address comes last: with it, everything is there.
pub(crate) fn write(folder: &Path, address: &Address, token: &Token) -> io::Result<()> {
    atomic::replace(folder, TOKEN_FILE, &token.0, Survives::Kill)?;
    atomic::replace(folder, ADDRESS_FILE, format!("{address}\n").as_bytes(), Survives::Kill)
}

/// Removes what [`write()`] has written: from here on, only a control socket counts.
pub(crate) fn forget(folder: &Path) -> io::Result<()> {
    for name in [ADDRESS_FILE, TOKEN_FILE] {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A token that nobody can guess.
pub(crate) fn new_token() -> io::Result<Token> {
    let mut token = Token::default();
    let mut filled = 0;
    while filled < token.0.len() {
        match getrandom(&mut token.0[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(token)
}

fn read(folder: &OwnedFd, name: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => fs::File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;
    use std::os::unix::fs::PermissionsExt;

    fn told(folder: &Path) -> String {
        match Way::of(folder).unwrap().target() {
            Target::InFolder { name, .. } => format!("in folder {}", name.display()),
            Target::DeviceInFolder { name, port, .. } => {
                format!("device in folder {} {port}", name.display())
            }
            Target::Address(address) => address.to_string(),
        }
    }

    #[test]
    fn without_a_word_it_is_the_control_socket() {
        let folder = TempDir::new();
        assert_eq!(told(folder.path()), "in folder control.sock");
        assert_eq!(*Way::of(folder.path()).unwrap().token(), Token::default());
    }

    #[test]
    fn what_is_written_counts_until_it_is_forgotten() {
        let folder = TempDir::new();
        let token = new_token().unwrap();
        assert_ne!(token, new_token().unwrap());
        for (text, expected) in [
            ("hybrid:vsock.sock:1024", "device in folder vsock.sock 1024"),
            ("unix:ctl/control.sock", "in folder ctl/control.sock"),
            ("hybrid:/run/vsock.sock:1024", "hybrid:/run/vsock.sock:1024"),
            ("vsock:3:1024", "vsock:3:1024"),
        ] {
            write(folder.path(), &text.parse().unwrap(), &token).unwrap();
            assert_eq!(told(folder.path()), expected);
            assert_eq!(*Way::of(folder.path()).unwrap().token(), token);
        }
        let mode = fs::metadata(folder.path().join(TOKEN_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        forget(folder.path()).unwrap();
        forget(folder.path()).unwrap();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        assert_eq!(told(folder.path()), "in folder control.sock");
    }

    #[test]
    fn damage_is_told() {
        let folder = TempDir::new();
        fs::write(folder.path().join(ADDRESS_FILE), "tcp:1:2").unwrap();
        assert!(Way::of(folder.path()).unwrap_err().to_string().contains("tcp:1:2"));
        fs::write(folder.path().join(ADDRESS_FILE), "vsock:3:1024").unwrap();
        fs::write(folder.path().join(TOKEN_FILE), "short").unwrap();
        assert!(Way::of(folder.path()).unwrap_err().to_string().contains("token"));
    }
}

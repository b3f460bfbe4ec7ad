//! An authority of our own and a certificate that it signed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::keeper;

/// Made by openssl, valid for a day.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    authority: PathBuf,
    /// The server's certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

impl Certificates {
    /// For a server of this name.
    pub fn make(name: &str) -> Self {
        let folder = keeper::folder("certificates");
        let openssl = |arguments: &str| {
            let run = Command::new("openssl").args(arguments.split(' ')).current_dir(&folder).output();
            let run = run.unwrap_or_else(|error| panic!("openssl: {error}; {}", keeper::INSTALL));
            assert!(run.status.success(), "{arguments}: {}", String::from_utf8_lossy(&run.stderr));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 1 -subj /CN=authority"));
        openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN={name}"));
        std::fs::write(folder.join("names"), format!("subjectAltName=DNS:{name}\n")).expect("it is ours");
        let sign =
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile names -out server.pem";
        openssl(sign);
        let read = |file| std::fs::read_to_string(folder.join(file)).expect("openssl made it");
        let (certificate, key) = (read("server.pem"), read("server.key"));
        Self { authority: folder.join("ca.pem"), folder, certificate, key }
    }

    /// The file of the authority's certificate, PEM.
    pub fn authority_file(&self) -> &Path {
        &self.authority
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        keeper::remove(&self.folder);
    }
}

//! The cluster's certificates: who is who on its connections.
//!
//! One CA (ECDSA P-256) certifies servers, managers and administrators. What a certificate stands for is one
//! URI in its subject alternative names, `dsi://<cluster>/<role>/<who>`, and nothing else: no subject text, no
//! file name. The policy signers' anchor is no product of this CA (see [`crate::signature`]): nobody who holds
//! a key of the cluster's own can sign policy with it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use uuid::Uuid;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a cluster CA's certificate is valid.
pub const CA_VALIDITY: Duration = DAY.saturating_mul(3650);

/// How long the certificate of a server, manager or administrator is valid.
pub const LEAF_VALIDITY: Duration = DAY.saturating_mul(365);

/// Certificates are valid from a little before they are made, for peers whose clocks lag.
const BACKDATE: Duration = Duration::from_secs(60 * 60);

/// Longest name of a node, server or administrator.
pub const MAX_NAME: usize = 63;

/// A certificate or key that could not be made or understood.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The cryptographic library refused.
    #[error("making {what}: {source}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// Why it failed.
        source: rcgen::Error,
    },
    /// The PEM text does not hold what it should.
    #[error("{what}: not valid PEM: {fault}")]
    Pem {
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        fault: String,
    },
    /// The certificate is not X.509.
    #[error("the certificate is not valid DER: {0}")]
    Certificate(String),
    /// The certificate says nothing about a role in a cluster, or says it wrongly.
    #[error("the certificate names no identity of a DSI cluster: {0}")]
    Identity(&'static str),
    /// The certificate signing request is not one, or was not signed by its own key.
    #[error("the certificate signing request is not valid: {0}")]
    Request(rcgen::Error),
    /// The request's key is of a kind that the cluster does not use.
    #[error("the certificate signing request's key is not ECDSA on P-256, as this cluster uses")]
    RequestKey,
    /// A name that cannot be borne.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A name that no node, server or administrator can bear.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a valid name: use 1 to {MAX_NAME} letters, digits, `-`, `_` or `.`, beginning with a letter or digit", .0.escape_debug())]
pub struct NameError(String);

/// Checks the name of a node, server or administrator.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let fits = (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits {
        Ok(())
    } else {
        Err(NameError(name.chars().take(MAX_NAME + 1).collect()))
    }
}

/// What a certificate's bearer may do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Answers managers and administrators.
    Server {
        /// Its name.
        name: String,
    },
    /// Speaks for one node.
    Manager {
        /// The node's id.
        snid: u32,
    },
    /// Operates the cluster.
    Administrator {
        /// The person's name.
        name: String,
    },
}

/// Who a verified certificate says that its bearer is.
///
/// # Invariants
///
/// Made from a certificate only by [`Identity::of_certificate`]; whether the certificate is to be believed (its
/// chain, its dates) was decided by the TLS handshake before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster that it belongs to.
    pub cluster: Uuid,
    /// What it is there.
    pub role: Role,
}

impl Identity {
    /// Reads the identity out of a certificate.
    pub fn of_certificate(der: &[u8]) -> Result<Self, PkiError> {
        let certificate = parse(der)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| PkiError::Identity("its subject alternative names cannot be read"))?
            .ok_or(PkiError::Identity("it has no subject alternative name"))?;
        let mut found = None;
        for name in &names.value.general_names {
            if let GeneralName::URI(uri) = name
                && uri.starts_with("dsi:")
                && found.replace(uri.parse()?).is_some()
            {
                return Err(PkiError::Identity("it has more than one dsi: URI"));
            }
        }
        found.ok_or(PkiError::Identity("it has no dsi: URI"))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = self.cluster;
        match &self.role {
            Role::Server { name } => write!(f, "dsi://{cluster}/server/{name}"),
            Role::Manager { snid } => write!(f, "dsi://{cluster}/node/{snid}"),
            Role::Administrator { name } => write!(f, "dsi://{cluster}/admin/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = PkiError;

    fn from_str(uri: &str) -> Result<Self, PkiError> {
        let fault = || PkiError::Identity("its dsi: URI is not dsi://<cluster>/<role>/<who>");
        let mut parts = uri.strip_prefix("dsi://").ok_or_else(fault)?.split('/');
        let (Some(cluster), Some(role), Some(who), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(fault());
        };
        let cluster = Uuid::try_parse(cluster).map_err(|_| fault())?;
        let role = match role {
            "server" => Role::Server {
                name: checked(who)?,
            },
            "admin" => Role::Administrator {
                name: checked(who)?,
            },
            "node" => match who.parse::<u32>() {
                Ok(snid @ 1..=65_535) if snid.to_string() == who => Role::Manager { snid },
                _ => return Err(fault()),
            },
            _ => return Err(fault()),
        };
        Ok(Self { cluster, role })
    }
}

fn checked(name: &str) -> Result<String, NameError> {
    check_name(name)?;
    Ok(name.to_owned())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PkiError::Certificate("bytes follow its end".into())),
        Err(error) => Err(PkiError::Certificate(error.to_string())),
    }
}

/// When a certificate stops to be valid, in seconds since 1970.
pub fn not_after(der: &[u8]) -> Result<i64, PkiError> {
    Ok(parse(der)?.validity().not_after.timestamp())
}

/// A private key of ours (ECDSA P-256, PKCS#8). Wiped when dropped, never printed.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// A new key, from the operating system's randomness.
    pub fn generate() -> Result<Self, PkiError> {
        let pair =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| PkiError::Make {
                what: "a private key",
                source,
            })?;
        Ok(Self(Zeroizing::new(pair.serialize_der())))
    }

    /// Reads a PKCS#8 PEM text.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PkiError> {
        let fault = |fault: String| PkiError::Pem {
            what: "private key",
            fault,
        };
        match PrivateKeyDer::from_pem_slice(pem).map_err(|error| fault(error.to_string()))? {
            PrivateKeyDer::Pkcs8(der) => {
                let key = Self(Zeroizing::new(der.secret_pkcs8_der().to_vec()));
                key.pair()?;
                Ok(key)
            }
            _ => Err(fault("it holds another kind of key than PKCS#8".into())),
        }
    }

    /// As PKCS#8 PEM text, for a private file.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem_text("PRIVATE KEY", &self.0))
    }

    /// As rustls takes it.
    pub fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.to_vec()))
    }

    /// A signing request that proves the possession of this key.
    pub fn signing_request(&self, common_name: &str) -> Result<Vec<u8>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common(common_name);
        let request = params
            .serialize_request(&self.pair()?)
            .map_err(|source| PkiError::Make {
                what: "a certificate signing request",
                source,
            })?;
        Ok(request.der().to_vec())
    }

    fn pair(&self) -> Result<KeyPair, PkiError> {
        KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(self.0.as_slice()),
            &PKCS_ECDSA_P256_SHA256,
        )
        .map_err(|source| PkiError::Make {
            what: "a key pair from the private key",
            source,
        })
    }
}

/// The cluster's certificate authority: its certificate and its key.
pub struct Authority {
    key: PrivateKey,
    certificate_der: Vec<u8>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(..)")
    }
}

impl Authority {
    /// Makes the authority of a new cluster.
    pub fn create(cluster_name: &str, cluster: Uuid, now: SystemTime) -> Result<Self, PkiError> {
        let key = PrivateKey::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common(&format!("DSI cluster {cluster_name} CA"));
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, cluster.to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, now, CA_VALIDITY);
        params.serial_number = Some(serial());
        let certificate = params
            .self_signed(&key.pair()?)
            .map_err(|source| PkiError::Make {
                what: "the CA's certificate",
                source,
            })?;
        Ok(Self {
            key,
            certificate_der: certificate.der().to_vec(),
        })
    }

    /// Puts a stored authority together again.
    pub fn load(certificate_der: Vec<u8>, key: PrivateKey) -> Result<Self, PkiError> {
        let authority = Self {
            key,
            certificate_der,
        };
        authority.issuer()?;
        Ok(authority)
    }

    /// The CA's certificate, DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The CA's private key, for a private file.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Certifies a server under the names and addresses by which it is reached.
    pub fn issue_server(
        &self,
        identity: &Identity,
        hosts: &[String],
        key: &PrivateKey,
        now: SystemTime,
    ) -> Result<Vec<u8>, PkiError> {
        let mut params = leaf(identity, ExtendedKeyUsagePurpose::ServerAuth, now)?;
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(ia5(host)?),
            });
        }
        self.sign(&params, &key.pair()?)
    }

    /// Certifies a manager or an administrator whose key was made here.
    pub fn issue_client(
        &self,
        identity: &Identity,
        key: &PrivateKey,
        now: SystemTime,
    ) -> Result<Vec<u8>, PkiError> {
        self.sign(
            &leaf(identity, ExtendedKeyUsagePurpose::ClientAuth, now)?,
            &key.pair()?,
        )
    }

    /// Certifies a manager or an administrator by his signing request; only the request's key is taken from it.
    pub fn issue_client_by_request(
        &self,
        identity: &Identity,
        common_name: &str,
        request_der: &[u8],
        now: SystemTime,
    ) -> Result<Vec<u8>, PkiError> {
        let request = CertificateSigningRequestParams::from_der(
            &CertificateSigningRequestDer::from(request_der),
        )
        .map_err(PkiError::Request)?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(PkiError::RequestKey);
        }
        let mut params = leaf(identity, ExtendedKeyUsagePurpose::ClientAuth, now)?;
        params.distinguished_name = common(common_name);
        self.sign(&params, &request.public_key)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Vec<u8>, PkiError> {
        let certificate =
            params
                .signed_by(key, &self.issuer()?)
                .map_err(|source| PkiError::Make {
                    what: "a certificate",
                    source,
                })?;
        Ok(certificate.der().to_vec())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let certificate = CertificateDer::from(self.certificate_der.as_slice());
        Issuer::from_ca_cert_der(&certificate, self.key.pair()?).map_err(|source| PkiError::Make {
            what: "the authority from its certificate",
            source,
        })
    }
}

fn leaf(
    identity: &Identity,
    usage: ExtendedKeyUsagePurpose,
    now: SystemTime,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = match &identity.role {
        Role::Server { name } | Role::Administrator { name } => common(name),
        Role::Manager { snid } => common(&format!("node {snid}")),
    };
    params.subject_alt_names = vec![SanType::URI(ia5(&identity.to_string())?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    validity(&mut params, now, LEAF_VALIDITY);
    Ok(params)
}

fn validity(params: &mut CertificateParams, now: SystemTime, valid_for: Duration) {
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + valid_for).into();
}

fn common(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn ia5(text: &str) -> Result<Ia5String, PkiError> {
    Ia5String::try_from(text).map_err(|source| PkiError::Make {
        what: "a certificate's alternative name",
        source,
    })
}

fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    // Positive and of full length in DER.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A certificate as PEM text.
pub fn certificate_pem(der: &[u8]) -> String {
    pem_text("CERTIFICATE", der)
}

/// The one certificate of a PEM text, as DER.
pub fn certificate_from_pem(pem: &[u8]) -> Result<Vec<u8>, PkiError> {
    CertificateDer::from_pem_slice(pem)
        .map(|der| der.to_vec())
        .map_err(|error| PkiError::Pem {
            what: "certificate",
            fault: error.to_string(),
        })
}

fn pem_text(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|&byte| char::from(byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use rustls::server::WebPkiClientVerifier;
    use rustls_pki_types::UnixTime;

    use super::*;

    fn authority() -> (Authority, Uuid) {
        let cluster = Uuid::new_v4();
        (
            Authority::create("test", cluster, SystemTime::now()).unwrap(),
            cluster,
        )
    }

    /// What rustls says to a client's certificate at a time.
    fn client_verifies(authority: &Authority, certificate: &[u8], at: SystemTime) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from(authority.certificate_der()))
            .unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.into())
            .build()
            .unwrap();
        let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        verifier
            .verify_client_cert(&CertificateDer::from(certificate), &[], at)
            .is_ok()
    }

    #[test]
    fn certificate_carries_its_identity() {
        let (authority, cluster) = authority();
        let key = PrivateKey::generate().unwrap();
        for role in [
            Role::Manager { snid: 65_535 },
            Role::Administrator {
                name: "anna".into(),
            },
        ] {
            let identity = Identity { cluster, role };
            let certificate = authority
                .issue_client(&identity, &key, SystemTime::now())
                .unwrap();
            assert_eq!(Identity::of_certificate(&certificate).unwrap(), identity);
            assert!(client_verifies(&authority, &certificate, SystemTime::now()));
        }
    }

    #[test]
    fn certificate_by_request_takes_the_key_and_nothing_else() {
        let (authority, cluster) = authority();
        let key = PrivateKey::generate().unwrap();
        let request = key.signing_request("somebody else").unwrap();
        let identity = Identity {
            cluster,
            role: Role::Manager { snid: 7 },
        };
        let der = authority
            .issue_client_by_request(&identity, "munster", &request, SystemTime::now())
            .unwrap();
        assert_eq!(Identity::of_certificate(&der).unwrap(), identity);
        assert_eq!(parse(&der).unwrap().subject().to_string(), "CN=munster");
        assert!(client_verifies(&authority, &der, SystemTime::now()));
    }

    #[test]
    fn damaged_request_is_refused() {
        let (authority, cluster) = authority();
        let mut request = PrivateKey::generate()
            .unwrap()
            .signing_request("x")
            .unwrap();
        let last = request.len() - 1;
        request[last] ^= 1;
        let identity = Identity {
            cluster,
            role: Role::Manager { snid: 7 },
        };
        let refused =
            authority.issue_client_by_request(&identity, "x", &request, SystemTime::now());
        assert!(matches!(refused, Err(PkiError::Request(_))), "{refused:?}");
    }

    #[test]
    fn foreign_expired_and_server_certificates_are_no_client_certificates() {
        let (authority, cluster) = authority();
        let other = Authority::create("other", cluster, SystemTime::now()).unwrap();
        let key = PrivateKey::generate().unwrap();
        let manager = Identity {
            cluster,
            role: Role::Manager { snid: 7 },
        };
        let now = SystemTime::now();
        let good = authority.issue_client(&manager, &key, now).unwrap();
        assert!(client_verifies(&authority, &good, now));
        assert!(!client_verifies(&other, &good, now));
        assert!(!client_verifies(
            &authority,
            &good,
            now + LEAF_VALIDITY + DAY
        ));
        let server = Identity {
            cluster,
            role: Role::Server { name: "ss".into() },
        };
        let server = authority
            .issue_server(&server, &["ss.example".into(), "::1".into()], &key, now)
            .unwrap();
        assert!(!client_verifies(&authority, &server, now));
    }

    #[test]
    fn authority_and_keys_survive_storage() {
        let (authority, cluster) = authority();
        let key = PrivateKey::from_pem(authority.key().to_pem().as_bytes()).unwrap();
        let pem = certificate_pem(authority.certificate_der());
        let stored = Authority::load(certificate_from_pem(pem.as_bytes()).unwrap(), key).unwrap();
        let identity = Identity {
            cluster,
            role: Role::Manager { snid: 1 },
        };
        let key = PrivateKey::generate().unwrap();
        let certificate = stored
            .issue_client(&identity, &key, SystemTime::now())
            .unwrap();
        assert!(client_verifies(&authority, &certificate, SystemTime::now()));
        assert_eq!(
            format!("{authority:?}"),
            "Authority(..)",
            "no key bytes are shown"
        );
    }

    #[test]
    fn only_exact_uris_are_identities() {
        let uuid = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
        for good in [
            format!("dsi://{uuid}/node/7"),
            format!("dsi://{uuid}/admin/a.b-c"),
            format!("dsi://{uuid}/server/s"),
        ] {
            assert_eq!(good.parse::<Identity>().unwrap().to_string(), good);
        }
        for bad in [
            "node/0",
            "node/65536",
            "node/07",
            "node/+7",
            "node/7/x",
            "node",
            "admin/",
            "admin/a%2fb",
            "root/x",
        ] {
            assert!(
                format!("dsi://{uuid}/{bad}").parse::<Identity>().is_err(),
                "{bad}"
            );
        }
        assert!(
            format!("https://{uuid}/node/7")
                .parse::<Identity>()
                .is_err()
        );
        assert!("dsi://x/node/7".parse::<Identity>().is_err());
    }

    #[test]
    fn names_are_checked() {
        for good in ["munster", "a", "0", "A.b_c-d", &"x".repeat(63)] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in ["", "-a", ".", "a b", "a/b", "ä", "a\n", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_identity_or_an_error(bytes: Vec<u8>, at: usize, flip: u8) {
            let _ = Identity::of_certificate(&bytes);
            let (authority, cluster) = authority();
            let identity = Identity { cluster, role: Role::Manager { snid: 7 } };
            let key = PrivateKey::generate().unwrap();
            let mut der = authority.issue_client(&identity, &key, SystemTime::now()).unwrap();
            let at = at % der.len();
            der[at] ^= flip;
            let _ = Identity::of_certificate(&der);
            let _ = authority.issue_client_by_request(&identity, "x", &bytes, SystemTime::now());
        }

        #[test]
        fn any_text_is_an_identity_that_reads_back_or_an_error(tail in "[a-z]{4,6}/[a-z0-9./-]{0,20}") {
            let text = format!("dsi://6f9619ff-8b86-d011-b42d-00cf4fc964ff/{tail}");
            if let Ok(identity) = text.parse::<Identity>() {
                proptest::prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}

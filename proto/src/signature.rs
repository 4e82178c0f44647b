//! The signature over a policy image: detached CMS SignedData, ECDSA P-256 with SHA-256, as
//! `openssl cms -sign -binary -noattr -nocerts -md sha256 -outform DER` makes it and the kernel's
//! `verify_pkcs7_signature()` takes it.
//!
//! The signer is found by issuer and serial number of the anchor that the caller trusts; a certificate
//! inside the message is never looked at. Encodings come from RustCrypto's `cms` and `x509-cert`, the
//! cryptography from *ring*; none is made here.

use std::fmt;

use cms::{
    cert::IssuerAndSerialNumber,
    content_info::{CmsVersion, ContentInfo},
    signed_data::{
        EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo as CmsSignerInfo,
        SignerInfos,
    },
};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_cert::{
    Certificate,
    der::{
        Any, Decode, Encode,
        asn1::{OctetString, SetOfVec},
        oid::{
            ObjectIdentifier,
            db::{
                rfc5911::{ID_DATA, ID_SIGNED_DATA},
                rfc5912::{ECDSA_WITH_SHA_256, ID_EC_PUBLIC_KEY, ID_SHA_256, SECP_256_R_1},
            },
        },
    },
    ext::pkix::SubjectKeyIdentifier,
    spki::AlgorithmIdentifierOwned,
};
use zeroize::{Zeroize, Zeroizing};

/// id-ce-subjectKeyIdentifier, as rcgen takes it.
const SUBJECT_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];

/// Why a signature could not be made or is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is no signature at all.
    #[error(
        "the policy is not signed: sign it with the cluster's policy signer (`dsictl policy apply` does)"
    )]
    Missing,
    /// It is not what it should be, so nothing can be said about it.
    #[error("the signature is not a detached CMS message in DER: {detail}")]
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
    /// Somebody else than the anchor has signed.
    #[error(
        "the signature is by {found}, but this cluster trusts {expected}: sign with the cluster's own signer key"
    )]
    Foreign {
        /// Whom the signature names.
        found: String,
        /// Whom the anchor names.
        expected: String,
    },
    /// It names the anchor, but does not fit the data.
    #[error(
        "the signature does not fit the data: either was changed after signing, or the key is not that of {signer}"
    )]
    Bad {
        /// Whom the signature names.
        signer: String,
    },
    /// An algorithm or form that is not used here.
    #[error("the {what} is {found}; only {expected} is taken")]
    Unsupported {
        /// What is unsupported.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The anchor is not a usable certificate.
    #[error("the policy anchor is not a usable X.509 certificate in DER: {detail}")]
    Anchor {
        /// What is wrong with it.
        detail: String,
    },
    /// The signer's key cannot be used.
    #[error("the signer's key cannot be used: {detail}")]
    Key {
        /// What is wrong with it.
        detail: String,
    },
}

/// A policy signer: private key and self-signed certificate, which is the anchor that nodes trust.
pub struct Signer {
    key: KeyPair,
    key_pem: Zeroizing<String>,
    certificate: Certificate,
    certificate_der: Vec<u8>,
}

impl Signer {
    /// The private key, PKCS #8 in PEM. To be stored with mode 0600 only.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The certificate: the anchor of the policy signers.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Signer({}, key withheld)",
            Identity::of(&self.certificate)
        )
    }
}

/// Who has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerInfo {
    /// Subject of the anchor.
    pub subject: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
}

/// Makes a new policy signer.
///
/// # Errors
/// [`SignatureError::Key`] if the system has no randomness or the name cannot stand in a certificate.
pub fn generate_signer(common_name: &str) -> Result<Signer, SignatureError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(key_error)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Not a CA: it signs policies and nothing else. Left out, not spelled `cA FALSE`: DER omits a default, and the
    // kernel's parser insists on that. Hence the subject key identifier, too, is made here.
    params.is_ca = IsCa::NoCa;
    let identifier =
        OctetString::new(params.key_identifier(&key)).and_then(|octets| octets.to_der());
    let identifier = identifier.map_err(|e| SignatureError::Key {
        detail: e.to_string(),
    })?;
    params.custom_extensions = vec![CustomExtension::from_oid_content(
        SUBJECT_KEY_IDENTIFIER,
        identifier,
    )];
    // The anchor lives as long as its cluster; the kernel has no trustworthy clock to judge it by anyway.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let certificate = params.self_signed(&key).map_err(key_error)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    signer(key, key_pem, certificate.der().to_vec())
}

/// Takes a signer's key (PKCS #8, PEM) and certificate (DER) into use.
///
/// # Errors
/// [`SignatureError::Key`] if it is no P-256 key in PKCS #8, or not the certificate's.
pub fn load_signer(key_pem: &str, certificate_der: &[u8]) -> Result<Signer, SignatureError> {
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(key_pem, &PKCS_ECDSA_P256_SHA256).map_err(|error| {
        SignatureError::Key {
            detail: format!("{error}: it must be an ECDSA P-256 key, PKCS #8 in PEM (`openssl pkcs8 -topk8 -nocrypt`)"),
        }
    })?;
    signer(
        key,
        Zeroizing::new(key_pem.to_owned()),
        certificate_der.to_vec(),
    )
}

fn signer(
    key: KeyPair,
    key_pem: Zeroizing<String>,
    certificate_der: Vec<u8>,
) -> Result<Signer, SignatureError> {
    let certificate = anchor(&certificate_der)?;
    if public_key(&certificate)? != key.der_bytes() {
        return Err(SignatureError::Key {
            detail: "it does not belong to the signer's certificate".to_owned(),
        });
    }
    Ok(Signer {
        key,
        key_pem,
        certificate,
        certificate_der,
    })
}

/// Signs `data`; the result is the detached signature in DER.
///
/// # Errors
/// [`SignatureError::Key`] if the key refuses to sign.
pub fn sign_detached(signer: &Signer, data: &[u8]) -> Result<Vec<u8>, SignatureError> {
    let signature = signer.key.sign(data).map_err(key_error)?;
    let encoding = |error: x509_cert::der::Error| SignatureError::Malformed {
        detail: error.to_string(),
    };
    let digest = algorithm(ID_SHA_256);
    let info = CmsSignerInfo {
        version: CmsVersion::V1,
        sid: SignerIdentifier::IssuerAndSerialNumber(Identity::of(&signer.certificate).0),
        digest_alg: digest.clone(),
        signed_attrs: None,
        signature_algorithm: algorithm(ECDSA_WITH_SHA_256),
        signature: OctetString::new(signature).map_err(encoding)?,
        unsigned_attrs: None,
    };
    let message = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::try_from(vec![digest]).map_err(encoding)?,
        encap_content_info: EncapsulatedContentInfo {
            econtent_type: ID_DATA,
            econtent: None,
        },
        certificates: None,
        crls: None,
        signer_infos: SignerInfos(SetOfVec::try_from(vec![info]).map_err(encoding)?),
    };
    let content = Any::encode_from(&message).map_err(encoding)?;
    ContentInfo {
        content_type: ID_SIGNED_DATA,
        content,
    }
    .to_der()
    .map_err(encoding)
}

/// Verifies a detached signature over `data` against the anchor.
///
/// # Errors
/// Tells a missing, a malformed, a foreign and a bad signature apart.
pub fn verify_detached(
    anchor_der: &[u8],
    data: &[u8],
    signature: &[u8],
) -> Result<SignerInfo, SignatureError> {
    if signature.is_empty() {
        return Err(SignatureError::Missing);
    }
    let anchor = anchor(anchor_der)?;
    let key = public_key(&anchor)?;
    let expected = Identity::of(&anchor);
    let message = signed_data(signature)?;
    let mut foreign = None;
    let mut good = false;
    for info in message.signer_infos.0.iter() {
        if !names(&info.sid, &anchor) {
            foreign = Some(described(&info.sid));
            continue;
        }
        only_plain(info)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key)
            .verify(data, info.signature.as_bytes())
            .map_err(|_| SignatureError::Bad {
                signer: expected.to_string(),
            })?;
        good = true;
    }
    match foreign {
        _ if good => Ok(SignerInfo {
            subject: anchor.tbs_certificate.subject.to_string(),
            serial: hex(anchor.tbs_certificate.serial_number.as_bytes()),
        }),
        Some(found) => Err(SignatureError::Foreign {
            found,
            expected: expected.to_string(),
        }),
        None => Err(SignatureError::Missing),
    }
}

/// Takes the message apart as far as a detached signature goes.
fn signed_data(signature: &[u8]) -> Result<SignedData, SignatureError> {
    let malformed = |detail: String| SignatureError::Malformed { detail };
    let message = ContentInfo::from_der(signature).map_err(|e| malformed(e.to_string()))?;
    if message.content_type != ID_SIGNED_DATA {
        return Err(malformed(format!(
            "its content is {}, not signed data",
            message.content_type
        )));
    }
    let signed: SignedData = message
        .content
        .decode_as()
        .map_err(|e| malformed(e.to_string()))?;
    if signed.encap_content_info.econtent_type != ID_DATA {
        return Err(malformed(format!(
            "it signs {}, not plain data",
            signed.encap_content_info.econtent_type
        )));
    }
    if signed.encap_content_info.econtent.is_some() {
        return Err(malformed(
            "it carries its content; a detached signature does not".to_owned(),
        ));
    }
    for info in signed.signer_infos.0.iter() {
        // The kernel insists on the version that goes with the way in which the signer is named.
        let version = match info.sid {
            SignerIdentifier::IssuerAndSerialNumber(_) => CmsVersion::V1,
            SignerIdentifier::SubjectKeyIdentifier(_) => CmsVersion::V3,
        };
        if info.version != version || signed.version != version {
            return Err(malformed(
                "its versions do not fit the way in which it names the signer".to_owned(),
            ));
        }
        if !signed
            .digest_algorithms
            .iter()
            .any(|digest| digest.oid == info.digest_alg.oid)
        {
            return Err(malformed(
                "its list of digests lacks the one that the signer used".to_owned(),
            ));
        }
    }
    Ok(signed)
}

/// Refuses every form but the one that is made here.
fn only_plain(info: &CmsSignerInfo) -> Result<(), SignatureError> {
    let unsupported = |what, found, expected| {
        Err(SignatureError::Unsupported {
            what,
            found,
            expected,
        })
    };
    if info.digest_alg.oid != ID_SHA_256 {
        return unsupported(
            "digest",
            info.digest_alg.oid.to_string(),
            "SHA-256 (`openssl cms -md sha256`)",
        );
    }
    if info.signature_algorithm.oid != ECDSA_WITH_SHA_256 {
        return unsupported(
            "signature algorithm",
            info.signature_algorithm.oid.to_string(),
            "ECDSA with SHA-256",
        );
    }
    if info.signed_attrs.is_some() {
        let found = "with signed attributes".to_owned();
        return unsupported("signature", found, "one without (`openssl cms -noattr`)");
    }
    Ok(())
}

fn anchor(der: &[u8]) -> Result<Certificate, SignatureError> {
    Certificate::from_der(der).map_err(|e| SignatureError::Anchor {
        detail: e.to_string(),
    })
}

/// The certificate's P-256 point.
fn public_key(certificate: &Certificate) -> Result<Vec<u8>, SignatureError> {
    let spki = &certificate.tbs_certificate.subject_public_key_info;
    let curve = spki
        .algorithm
        .parameters
        .as_ref()
        .and_then(|p| p.decode_as::<ObjectIdentifier>().ok());
    if spki.algorithm.oid != ID_EC_PUBLIC_KEY || curve != Some(SECP_256_R_1) {
        let found = curve.unwrap_or(spki.algorithm.oid).to_string();
        return Err(SignatureError::Unsupported {
            what: "signer's key",
            found,
            expected: "ECDSA P-256",
        });
    }
    let point = spki.subject_public_key.as_bytes();
    point
        .map(<[u8]>::to_vec)
        .ok_or_else(|| SignatureError::Anchor {
            detail: "its key is not whole bytes".to_owned(),
        })
}

/// Whether a signer identifier means this certificate.
fn names(sid: &SignerIdentifier, certificate: &Certificate) -> bool {
    match sid {
        SignerIdentifier::IssuerAndSerialNumber(id) => *id == Identity::of(certificate).0,
        SignerIdentifier::SubjectKeyIdentifier(id) => {
            matches!(certificate.tbs_certificate.get::<SubjectKeyIdentifier>(), Ok(Some((_, own))) if own == *id)
        }
    }
}

fn described(sid: &SignerIdentifier) -> String {
    match sid {
        SignerIdentifier::IssuerAndSerialNumber(id) => Identity(id.clone()).to_string(),
        SignerIdentifier::SubjectKeyIdentifier(id) => {
            format!("the key with identifier {}", hex(id.0.as_bytes()))
        }
    }
}

/// Issuer and serial number, by which a signature names its signer.
struct Identity(IssuerAndSerialNumber);

impl Identity {
    fn of(certificate: &Certificate) -> Self {
        Self(IssuerAndSerialNumber {
            issuer: certificate.tbs_certificate.issuer.clone(),
            serial_number: certificate.tbs_certificate.serial_number.clone(),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (serial {})",
            self.0.issuer,
            hex(self.0.serial_number.as_bytes())
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn algorithm(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned {
        oid,
        parameters: None,
    }
}

fn key_error(error: rcgen::Error) -> SignatureError {
    SignatureError::Key {
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{path::Path, process::Command};

    const DATA: &[u8] = b"DSIPOL and whatever follows\n\r\n\0binary";

    fn openssl(directory: &Path, arguments: &str) -> Result<(), String> {
        let run = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(directory)
            .output()
            .expect("openssl is installed (package openssl)");
        if run.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&run.stderr).into_owned())
        }
    }

    /// A directory with our signer's certificate in PEM, its key and the data.
    fn workshop(signer: &Signer) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let at = |name| directory.path().join(name);
        std::fs::write(at("data"), DATA).unwrap();
        std::fs::write(at("signer.der"), signer.certificate_der()).unwrap();
        std::fs::write(at("signer.key"), signer.key_pem()).unwrap();
        openssl(
            directory.path(),
            "x509 -inform DER -in signer.der -out signer.pem",
        )
        .unwrap();
        directory
    }

    #[test]
    fn a_signature_verifies_here() {
        let signer = generate_signer("DSI policy signer").unwrap();
        let signature = sign_detached(&signer, DATA).unwrap();
        let by = verify_detached(signer.certificate_der(), DATA, &signature).unwrap();
        assert_eq!(by.subject, "CN=DSI policy signer");
        let reloaded = load_signer(signer.key_pem(), signer.certificate_der()).unwrap();
        let again = sign_detached(&reloaded, DATA).unwrap();
        verify_detached(signer.certificate_der(), DATA, &again).unwrap();
        assert!(!format!("{signer:?}").contains("PRIVATE"));
    }

    #[test]
    fn the_certificate_is_one_that_the_kernel_takes() {
        use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
        let signer = generate_signer("DSI policy signer").unwrap();
        let certificate = Certificate::from_der(signer.certificate_der())
            .unwrap()
            .tbs_certificate;
        // What the kernel's parser wants of basic constraints, rcgen does not write; see generate_signer.
        assert!(certificate.get::<BasicConstraints>().unwrap().is_none());
        let (_, usage) = certificate.get::<KeyUsage>().unwrap().unwrap();
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let (critical, identifier) = certificate.get::<SubjectKeyIdentifier>().unwrap().unwrap();
        assert!(!critical && identifier.0.as_bytes().len() == 20);
    }

    #[test]
    fn a_signature_verifies_with_openssl_and_a_changed_one_does_not() {
        let signer = generate_signer("DSI policy signer").unwrap();
        let directory = workshop(&signer);
        let at = |name| directory.path().join(name);
        std::fs::write(at("sig"), sign_detached(&signer, DATA).unwrap()).unwrap();
        let verify = "cms -verify -binary -inform DER -in sig -content data -certfile signer.pem -CAfile signer.pem \
                      -purpose any -out /dev/null";
        openssl(directory.path(), verify).unwrap();
        std::fs::write(at("data"), b"something else").unwrap();
        openssl(directory.path(), verify).unwrap_err();
    }

    #[test]
    fn a_signature_by_openssl_verifies_here() {
        let signer = generate_signer("DSI policy signer").unwrap();
        let directory = workshop(&signer);
        let sign = "cms -sign -binary -noattr -md sha256 -outform DER -signer signer.pem -inkey signer.key -in data";
        for variant in ["", "-nocerts", "-keyid", "-nocerts -keyid"] {
            openssl(directory.path(), &format!("{sign} {variant} -out sig")).unwrap();
            let signature = std::fs::read(directory.path().join("sig")).unwrap();
            verify_detached(signer.certificate_der(), DATA, &signature)
                .unwrap_or_else(|e| panic!("{variant}: {e}"));
            let other =
                verify_detached(signer.certificate_der(), b"other data", &signature).unwrap_err();
            assert!(
                matches!(other, SignatureError::Bad { .. }),
                "{variant}: {other}"
            );
        }
    }

    #[test]
    fn a_signer_made_by_openssl_can_sign_here() {
        let directory = tempfile::tempdir().unwrap();
        let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=byhand -keyout k -out c \
                       -days 30";
        openssl(directory.path(), request).unwrap();
        openssl(directory.path(), "x509 -in c -outform DER -out c.der").unwrap();
        let key = std::fs::read_to_string(directory.path().join("k")).unwrap();
        let certificate = std::fs::read(directory.path().join("c.der")).unwrap();
        let signer = load_signer(&key, &certificate).unwrap();
        let signature = sign_detached(&signer, DATA).unwrap();
        verify_detached(&certificate, DATA, &signature).unwrap();
    }

    #[test]
    fn missing_foreign_bad_and_malformed_are_told_apart() {
        let signer = generate_signer("ours").unwrap();
        let anchor = signer.certificate_der();
        let signature = sign_detached(&signer, DATA).unwrap();

        assert!(matches!(
            verify_detached(anchor, DATA, b""),
            Err(SignatureError::Missing)
        ));

        let stranger = generate_signer("theirs").unwrap();
        let foreign =
            verify_detached(anchor, DATA, &sign_detached(&stranger, DATA).unwrap()).unwrap_err();
        assert!(
            matches!(&foreign, SignatureError::Foreign { found, .. } if found.contains("CN=theirs")),
            "{foreign}"
        );

        // Same name, other key: the serial number tells them apart.
        let impostor = generate_signer("ours").unwrap();
        let foreign =
            verify_detached(anchor, DATA, &sign_detached(&impostor, DATA).unwrap()).unwrap_err();
        assert!(matches!(foreign, SignatureError::Foreign { .. }));

        let mut flipped = DATA.to_vec();
        flipped[3] ^= 1;
        assert!(matches!(
            verify_detached(anchor, &flipped, &signature),
            Err(SignatureError::Bad { .. })
        ));

        let cut = &signature[..signature.len() - 1];
        assert!(matches!(
            verify_detached(anchor, DATA, cut),
            Err(SignatureError::Malformed { .. })
        ));
        let junk = verify_detached(anchor, DATA, b"-----BEGIN CMS-----").unwrap_err();
        assert!(matches!(junk, SignatureError::Malformed { .. }));

        assert!(matches!(
            verify_detached(b"no certificate", DATA, &signature),
            Err(SignatureError::Anchor { .. })
        ));
    }

    #[test]
    fn every_flipped_byte_of_a_signature_is_noticed() {
        let signer = generate_signer("ours").unwrap();
        let signature = sign_detached(&signer, DATA).unwrap();
        for position in 0..signature.len() {
            let mut changed = signature.clone();
            changed[position] ^= 0x01;
            assert!(
                verify_detached(signer.certificate_der(), DATA, &changed).is_err(),
                "byte {position}"
            );
        }
    }

    #[test]
    fn forms_that_the_project_does_not_use_are_refused_with_the_fix() {
        let signer = generate_signer("ours").unwrap();
        let directory = workshop(&signer);
        let sign =
            "cms -sign -binary -outform DER -signer signer.pem -inkey signer.key -in data -out sig";
        for (variant, fix) in [
            ("-md sha256", "-noattr"),
            ("-md sha384 -noattr", "SHA-256"),
            ("-noattr -nodetach", "detached"),
        ] {
            openssl(directory.path(), &format!("{sign} {variant}")).unwrap();
            let signature = std::fs::read(directory.path().join("sig")).unwrap();
            let error = verify_detached(signer.certificate_der(), DATA, &signature)
                .unwrap_err()
                .to_string();
            assert!(error.contains(fix), "{variant}: {error}");
        }
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_refused() {
        let (ours, theirs) = (
            generate_signer("ours").unwrap(),
            generate_signer("theirs").unwrap(),
        );
        let error = load_signer(ours.key_pem(), theirs.certificate_der()).unwrap_err();
        assert!(matches!(error, SignatureError::Key { .. }));
        assert!(load_signer("no key", ours.certificate_der()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_a_signature(junk in proptest::collection::vec(proptest::num::u8::ANY, 0..300), at in 0usize..300) {
            static SIGNER: std::sync::LazyLock<(Signer, Vec<u8>)> = std::sync::LazyLock::new(|| {
                let signer = generate_signer("ours").unwrap();
                let signature = sign_detached(&signer, DATA).unwrap();
                (signer, signature)
            });
            let (signer, good) = &*SIGNER;
            let anchor = signer.certificate_der();
            proptest::prop_assert!(verify_detached(anchor, DATA, &junk).is_err());
            // The beginning of a good one, then anything.
            let mut spliced = good[..at.min(good.len())].to_vec();
            spliced.extend(&junk);
            proptest::prop_assert!(spliced == *good || verify_detached(anchor, DATA, &spliced).is_err());
            let _ = verify_detached(&junk, DATA, good);
        }
    }
}

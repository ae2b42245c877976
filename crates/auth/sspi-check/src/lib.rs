//! NTLM and SPNEGO of email-router against those of the crate `sspi`, in both directions: `cargo test` in this folder.
//!
//! | who asks | who judges | what is compared |
//! |---|---|---|
//! | our NTLM | sspi's acceptor | response, checksum over the messages, channel binding |
//! | our SPNEGO | sspi's acceptor | the same, and the signatures of both sides under the list of mechanisms |
//! | sspi's NTLM | the acceptor of our testkit, which judges our own client in the tests of `email-router-auth` | response, checksum, channel binding |

#[cfg(test)]
mod tests {
    use email_router_auth::{AuthError, Channel, Credentials, Exchange, Mechanism, Negotiate, Ntlm};
    use email_router_testkit::ntlm::NtlmServer;
    use sspi::{
        AuthIdentity, BufferType, ClientRequestFlags, CredentialUse, CredentialsBuffers, DataRepresentation,
        NegotiateConfig, SecurityBuffer, SecurityStatus, ServerRequestFlags, Sspi, SspiImpl, Username,
        ntlm::NtlmConfig,
    };

    const PASSWORD: &str = "Secret 123 \u{fc}";
    const DIGEST: [u8; 32] = [0x5a; 32];

    fn channel(digest: &[u8]) -> Channel {
        Channel::tls("HTTP", "mail.contoso.test", 443, Some(digest.to_vec()))
    }

    fn identity(user: &str, domain: &str, password: &str) -> AuthIdentity {
        let username = Username::new(user, (!domain.is_empty()).then_some(domain)).unwrap();
        AuthIdentity { username, password: password.to_owned().into() }
    }

    fn binding(digest: &[u8]) -> Vec<u8> {
        [b"tls-server-end-point:", digest].concat()
    }

    /// sspi's acceptor of NTLM: gives the challenge, then judges the answer.
    struct Acceptor(sspi::Ntlm, AuthIdentity);

    impl Acceptor {
        /// sspi puts its own domain in the place of one that the client leaves empty, hence the parameter.
        fn new(domain: &str, digest: &[u8]) -> Self {
            let mut ntlm = sspi::Ntlm::new();
            ntlm.set_channel_bindings(&binding(digest));
            Self(ntlm, identity("alice", domain, PASSWORD))
        }

        fn step(&mut self, message: &[u8]) -> sspi::Result<Vec<u8>> {
            let Self(ntlm, identity) = self;
            let mut credentials = ntlm
                .acquire_credentials_handle()
                .with_credential_use(CredentialUse::Inbound)
                .with_auth_data(identity)
                .execute(ntlm)?;
            let mut input = [SecurityBuffer::new(message.to_vec(), BufferType::Token)];
            let mut output = [SecurityBuffer::new(Vec::new(), BufferType::Token)];
            let builder = ntlm
                .accept_security_context()
                .with_credentials_handle(&mut credentials.credentials_handle)
                .with_context_requirements(ServerRequestFlags::ALLOCATE_MEMORY)
                .with_target_data_representation(DataRepresentation::Native)
                .with_input(&mut input)
                .with_output(&mut output);
            let result = ntlm.accept_security_context_impl(builder)?.resolve_to_result()?;
            if result.status == SecurityStatus::CompleteNeeded {
                ntlm.complete_auth_token(&mut output)?;
            }
            Ok(std::mem::take(&mut output[0].buffer))
        }
    }

    fn begin(mechanism: &dyn Mechanism, name: &str, password: &str) -> Box<dyn Exchange> {
        mechanism.begin(&Credentials::new(name, password.into()), &channel(&DIGEST)).unwrap()
    }

    #[test]
    fn sspi_accepts_our_ntlm_and_refuses_what_is_wrong() {
        for (name, password, digest, good) in [
            ("CONTOSO\\alice", PASSWORD, DIGEST, true),
            ("contoso\\Alice", PASSWORD, DIGEST, true),
            ("alice@contoso.test", PASSWORD, DIGEST, true),
            ("CONTOSO\\alice", "secret 123 \u{fc}", DIGEST, false),
            ("CONTOSO\\alice", "", DIGEST, false),
            ("CONTOSO\\alice", PASSWORD, [1; 32], false),
        ] {
            let mut acceptor = Acceptor::new(if name.contains('\\') { "CONTOSO" } else { "" }, &digest);
            let mut exchange = begin(&Ntlm::system(), name, password);
            let challenge = acceptor.step(&exchange.initial().unwrap()).unwrap();
            let end = acceptor.step(&exchange.step(&challenge).unwrap());
            assert_eq!(end.is_ok(), good, "{name}: {end:?}");
        }
        // the checksum is looked at: one bit of what it covers, and one of itself
        for at in [60, 72] {
            let mut acceptor = Acceptor::new("CONTOSO", &DIGEST);
            let mut exchange = begin(&Ntlm::system(), "CONTOSO\\alice", PASSWORD);
            let challenge = acceptor.step(&exchange.initial().unwrap()).unwrap();
            let mut last = exchange.step(&challenge).unwrap();
            last[at] ^= 4;
            assert!(acceptor.step(&last).is_err(), "{at}");
        }
    }

    /// sspi's acceptor of SPNEGO.
    fn spnego(password: &str, tamper: bool) -> sspi::Result<Result<(), AuthError>> {
        let config = NegotiateConfig::new(
            Box::new(NtlmConfig::new("EXCH".to_owned())),
            Some("ntlm,!kerberos,!pku2u".to_owned()),
            "EXCH".to_owned(),
        );
        let identity = identity("alice", "CONTOSO", PASSWORD);
        let mut acceptor = sspi::Negotiate::new_server(config, vec![identity])?;
        let mut step = |message: &[u8]| -> sspi::Result<Vec<u8>> {
            let mut credentials: Option<CredentialsBuffers> = None;
            let mut input = [SecurityBuffer::new(message.to_vec(), BufferType::Token)];
            let mut output = [SecurityBuffer::new(Vec::new(), BufferType::Token)];
            let builder = acceptor
                .accept_security_context()
                .with_credentials_handle(&mut credentials)
                .with_context_requirements(ServerRequestFlags::ALLOCATE_MEMORY)
                .with_target_data_representation(DataRepresentation::Native)
                .with_input(&mut input)
                .with_output(&mut output);
            acceptor.accept_security_context_impl(builder)?.resolve_to_result()?;
            Ok(std::mem::take(&mut output[0].buffer))
        };
        let mut exchange = begin(&Negotiate::system(), "CONTOSO\\alice", password);
        let challenge = step(&exchange.initial().unwrap())?;
        let mut last = exchange.step(&challenge).unwrap();
        if tamper {
            let signature = last.len() - 8;
            last[signature] ^= 1;
        }
        let answer = step(&last)?;
        Ok(exchange.finish(Some(&answer)))
    }

    #[test]
    fn sspi_and_we_accept_each_others_signature() {
        spnego(PASSWORD, false).unwrap().unwrap();
        assert!(spnego("wrong", false).is_err());
        assert!(spnego(PASSWORD, true).is_err());
    }

    /// sspi's client before our testkit's judge.
    fn client(
        server: &NtlmServer,
        user: &str,
        domain: &str,
        password: &str,
        digest: &[u8],
    ) -> Result<(), String> {
        let mut ntlm = sspi::Ntlm::new();
        ntlm.set_channel_bindings(&binding(digest));
        let identity = identity(user, domain, password);
        let mut credentials = ntlm
            .acquire_credentials_handle()
            .with_credential_use(CredentialUse::Outbound)
            .with_auth_data(&identity)
            .execute(&mut ntlm)
            .unwrap();
        let mut step = |message: Vec<u8>| {
            let mut input = [SecurityBuffer::new(message, BufferType::Token)];
            let mut output = [SecurityBuffer::new(Vec::new(), BufferType::Token)];
            let mut builder = ntlm
                .initialize_security_context()
                .with_credentials_handle(&mut credentials.credentials_handle)
                .with_context_requirements(ClientRequestFlags::INTEGRITY)
                .with_target_data_representation(DataRepresentation::Native)
                .with_target_name("HTTP/mail.contoso.test")
                .with_input(&mut input)
                .with_output(&mut output);
            ntlm.initialize_security_context_impl(&mut builder).unwrap().resolve_to_result().unwrap();
            std::mem::take(&mut output[0].buffer)
        };
        let negotiate = step(Vec::new());
        let authenticate = step(server.challenge());
        server.accept(&negotiate, &authenticate).map(drop)
    }

    #[test]
    fn our_judge_accepts_sspi_and_refuses_what_is_wrong() {
        // sspi sends an LM response beside a time, which the judge does not want to see from us
        let server = NtlmServer::new("alice", "CONTOSO", PASSWORD)
            .without_time()
            .with_server_end_point(DIGEST.to_vec());
        assert_eq!(client(&server, "alice", "CONTOSO", PASSWORD, &DIGEST), Ok(()));
        assert_eq!(client(&server, "alice", "CONTOSO", "wrong", &DIGEST), Err("wrong password".into()));
        assert_eq!(client(&server, "bob", "CONTOSO", PASSWORD, &DIGEST), Err("unknown user".into()));
        assert_eq!(
            client(&server, "alice", "CONTOSO", PASSWORD, &[1; 32]),
            Err("the channel binding is wrong".into())
        );
    }
}

package peers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// Secure says how the secured listeners of a SecureKafka ask for trust. Files
// are PEM; Keystore holds a private key (PKCS #8) and its certificate.
type Secure struct {
	Keystore, CA string
	Users        map[string]string // PLAIN: user to password
	Reauth       time.Duration     // connections.max.reauth.ms; 0 = sessions do not end
	JWKS         string            // URL of the keys that sign tokens; "" = no OAUTHBEARER
	Audience     string            // that tokens must be for
}

// SecureKafka is a Kafka with ACLs (StandardAuthorizer). Its plain listener, at
// Addr, is the administrator's; the others grant nothing without an ACL.
type SecureKafka struct {
	*Kafka
	SASLSSL   string // SASL over TLS: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER
	SASLPlain string // the same mechanisms, not encrypted
	MTLS      string // TLS, a client certificate is required
	held      []port
}

// SystemProperty is what the JVM must be told before Kafka 4 asks url for keys;
// set it in the environment variable JDK_JAVA_OPTIONS.
func SystemProperty(url string) string {
	return "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=" + url
}

// StartSecureKafka starts a broker with three secured listeners in dir, which
// must be new.
func StartSecureKafka(dir string, s Secure, opts ...KafkaOption) (*SecureKafka, error) {
	k := &SecureKafka{}
	for range 3 {
		p, err := holdPort(0)
		if err != nil {
			return nil, fmt.Errorf("start secured Kafka in %s: %w", dir, err)
		}
		k.held = append(k.held, p)
	}
	k.SASLSSL, k.SASLPlain, k.MTLS = k.held[0].addr(), k.held[1].addr(), k.held[2].addr()
	var err error
	k.Kafka, err = StartKafka(dir, append([]KafkaOption{func(settings map[string]string) { s.apply(k, settings) }}, opts...)...)
	if err != nil {
		return nil, err
	}
	return k, nil
}

// apply adds the listeners to the settings of StartKafka.
func (s *Secure) apply(k *SecureKafka, settings map[string]string) {
	listeners := ",SASLSSL://" + k.SASLSSL + ",SASLPLAIN://" + k.SASLPlain + ",MTLS://" + k.MTLS
	settings["listeners"] += listeners
	settings["advertised.listeners"] += listeners
	settings["listener.security.protocol.map"] += ",SASLSSL:SASL_SSL,SASLPLAIN:SASL_PLAINTEXT,MTLS:SSL"
	settings["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
	settings["super.users"] = "User:ANONYMOUS;User:root"
	for key, value := range map[string]string{
		"ssl.keystore.type": "PEM", "ssl.keystore.location": s.Keystore,
		"ssl.truststore.type": "PEM", "ssl.truststore.location": s.CA,
	} {
		settings[key] = value
	}
	settings["listener.name.mtls.ssl.client.auth"] = "required"
	mechanisms := "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
	if s.JWKS != "" {
		mechanisms += ",OAUTHBEARER"
	}
	const security = "org.apache.kafka.common.security."
	users := ""
	for user, password := range s.Users {
		users += " user_" + user + "=" + strconv.Quote(password)
	}
	for _, name := range []string{"saslssl", "saslplain"} {
		l := "listener.name." + name + "."
		settings[l+"sasl.enabled.mechanisms"] = mechanisms
		settings[l+"plain.sasl.jaas.config"] = security + "plain.PlainLoginModule required" + users + ";"
		for _, m := range []string{"scram-sha-256", "scram-sha-512"} {
			settings[l+m+".sasl.jaas.config"] = security + "scram.ScramLoginModule required;"
		}
		if s.JWKS != "" {
			settings[l+"oauthbearer.sasl.jaas.config"] = security + "oauthbearer.OAuthBearerLoginModule required;"
			settings[l+"oauthbearer.sasl.server.callback.handler.class"] = security + "oauthbearer.OAuthBearerValidatorCallbackHandler"
			settings[l+"sasl.oauthbearer.jwks.endpoint.url"] = s.JWKS
			settings[l+"sasl.oauthbearer.expected.audience"] = s.Audience
		}
		if s.Reauth > 0 {
			settings[l+"connections.max.reauth.ms"] = fmt.Sprint(s.Reauth.Milliseconds())
		}
	}
}

// SetScram gives a user a password for SCRAM-SHA-256 and SCRAM-SHA-512, as
// kafka-configs.sh --add-config does.
func (k *SecureKafka) SetScram(user, password string) error {
	admin, err := sarama.NewClusterAdmin([]string{k.Addr}, kafkaClient())
	if err != nil {
		return fmt.Errorf("set password of %s: connect to %s: %w", user, k.Addr, err)
	}
	for _, m := range []sarama.ScramMechanismType{sarama.SCRAM_MECHANISM_SHA_256, sarama.SCRAM_MECHANISM_SHA_512} {
		// One request each: Kafka takes a user named twice for a mistake.
		results, e := admin.UpsertUserScramCredentials([]sarama.AlterUserScramCredentialsUpsert{{Name: user, Mechanism: m,
			Iterations: 4096, Salt: []byte("salt of " + user), Password: []byte(password)}})
		err = errors.Join(err, e)
		for _, r := range results {
			if r.ErrorCode != sarama.ErrNoError {
				err = errors.Join(err, r.ErrorCode)
			}
		}
	}
	if err = errors.Join(err, admin.Close()); err != nil {
		return fmt.Errorf("set password of %s at %s: %w", user, k.Addr, err)
	}
	return nil
}

// ACL runs kafka-acls.sh with the arguments, as the administrator: what it is
// given after --bootstrap-server and --command-config is replaced.
func (k *SecureKafka) ACL(dir string, args ...string) error {
	java, err := program("java")
	if err != nil {
		return fmt.Errorf("run kafka-acls: %w", err)
	}
	classpath, err := kafkaClasspath()
	if err != nil {
		return fmt.Errorf("run kafka-acls: %w", err)
	}
	rest := []string{"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classpath, "org.apache.kafka.tools.AclCommand", "--bootstrap-server", k.Addr}
	for i := 0; i < len(args); i++ {
		if args[i] == "--bootstrap-server" || args[i] == "--command-config" {
			i++
			continue
		}
		rest = append(rest, args[i])
	}
	logPath := filepath.Join(dir, "acls.log")
	r, err := spawn(kafkaCommand(dir, java, rest...), logPath)
	if err != nil {
		return fmt.Errorf("run kafka-acls: %w", err)
	}
	select {
	case <-r.ended:
	case <-time.After(readyLimit):
		return fmt.Errorf("run kafka-acls: still running after %s: %w", readyLimit, r.kill())
	}
	if said := logTail(logPath); r.err != nil || strings.Contains(said, "Error while") {
		return fmt.Errorf("run kafka-acls %s: %w; it said:\n%s", strings.Join(args, " "), errors.Join(r.err, os.ErrInvalid), said)
	}
	return nil
}

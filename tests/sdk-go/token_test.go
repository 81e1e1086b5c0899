// Tokens that tests sign themselves, good and bad ones.

package sdk

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

type claims map[string]any

// Claims of a user who may do everything in `room:*`.
func member(user string, life time.Duration) claims {
	return claims{
		"sub": user,
		"exp": time.Now().Add(life).Unix(),
		"caps": []claims{{
			"channels": []string{"room:*"},
			"match":    "wildcard",
			"allow":    []string{"sub", "pub", "prs", "hst"},
		}},
	}
}

func encodePart(value any) string {
	text, _ := json.Marshal(value)
	return base64.RawURLEncoding.EncodeToString(text)
}

// The id of the key that signed a token.
func keyID(t testing.TB, token string) string {
	t.Helper()
	head, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(head)
	var header struct{ Kid string }
	if err == nil {
		err = json.Unmarshal(text, &header)
	}
	if err != nil {
		t.Fatal(err)
	}
	return header.Kid
}

// A token of a key.
func signWith(secret, kid string, body claims) string {
	return signText(secret, encodePart(claims{"alg": "HS256", "typ": "JWT", "kid": kid})+"."+encodePart(body))
}

// A token of its two parts.
func signText(secret, text string) string {
	mark := hmac.New(sha256.New, []byte(secret))
	mark.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mark.Sum(nil))
}

// A token of the server's demo instance.
func (s *server) sign(t testing.TB, body claims) string {
	return signWith(s.HMACSecret, keyID(t, s.Tokens["alice"]), body)
}

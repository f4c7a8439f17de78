package kafka

import (
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// s3Error is an answer that is none of success ("Error responses", Amazon S3
// API reference).
type s3Error struct {
	XMLName xml.Name `xml:"Error"`
	Code    string   `xml:"Code"`
	Message string   `xml:"Message"`

	status  int
	request string // the store's number of the request; "" = something in between has answered
}

// otherObject says that what the store has under a name is not what was sent.
type otherObject struct{ text string }

// Error implements error.
func (e *otherObject) Error() string { return e.text }

// tells reports whether an error of check is the word of a store that works:
// it does not have the object, or does not say.
func tells(err error) bool {
	var other *otherObject
	var answer *s3Error
	return errors.As(err, &other) || errors.As(err, &answer) && !answer.passing()
}

// Error implements error.
func (e *s3Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("status %d %s", e.status, http.StatusText(e.status))
	}
	return fmt.Sprintf("status %d %s: %s", e.status, e.Code, e.Message)
}

// stale reports whether the upload in parts cannot be gone on with.
func (e *s3Error) stale() bool {
	switch e.Code {
	case "NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall":
		return true
	}
	return false
}

// passing reports whether the same request may succeed later.
func (e *s3Error) passing() bool {
	switch e.Code {
	case "RequestTimeTooSkewed", "RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch",
		"SlowDown", "Throttling", "OperationAborted", "InternalError", "ServiceUnavailable":
		return true
	case "NotImplemented":
		return false
	}
	switch e.status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return e.status >= 500
}

// hint says what a person must do, or "".
func (e *s3Error) hint() string {
	switch e.Code {
	case "AccessDenied":
		return " (allow s3:PutObject and s3:GetObject on the bucket for the access key)"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch":
		return " (check large.store.access_key, secret_key and region)"
	case "NoSuchBucket":
		return " (make the bucket, or correct large.store.bucket)"
	case "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return " (correct large.store.region and endpoint)"
	case "EntityTooLarge":
		return " (the store takes no object of that size)"
	}
	switch e.status {
	case http.StatusForbidden:
		return " (check large.store.access_key and what it is allowed)"
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		return " (correct large.store.region and endpoint)"
	}
	return ""
}

// failure makes the error of the answer to a request signed at a time. A clock
// that the store does not believe is corrected by the store's own for what we sign.
func (s *s3Store) failure(resp *http.Response, body []byte, signed string) error {
	e := &s3Error{}
	_ = xml.Unmarshal(body, e) // an answer of something before the store has no such body
	e.status, e.request = resp.StatusCode, resp.Header.Get("X-Amz-Request-Id")
	if e.Code == "" && e.status == http.StatusForbidden && e.request != "" && skewed(signed, resp.Header.Get("Date")) {
		e.Code = "RequestTimeTooSkewed" // the answer to a HEAD has no body
	}
	if e.Code == "RequestTimeTooSkewed" || e.Code == "RequestExpired" {
		if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			s.skew = time.Until(at)
		}
	}
	err := error(e)
	if hint := e.hint(); hint != "" {
		err = fmt.Errorf("%w%s", e, hint)
	}
	if e.Code == "" || e.passing() || e.stale() { // without a code it is of something in between
		return err
	}
	return &storeRefusal{err}
}

// skewed reports whether the times of a request and of its answer are further
// apart than a store bears, which is 15 minutes, less what a slow link takes.
func skewed(signed, answered string) bool {
	at, err := time.Parse("20060102T150405Z", signed)
	date, err2 := http.ParseTime(answered)
	return err == nil && err2 == nil && date.Sub(at).Abs() > 15*time.Minute-stallAfter
}

// embeddedError returns the error in an answer whose status says success.
func embeddedError(body []byte) error {
	e := &s3Error{}
	if xml.Unmarshal(body, e) != nil {
		return nil
	}
	e.status = http.StatusInternalServerError
	if e.passing() || e.stale() {
		return e
	}
	return &storeRefusal{e}
}

// uploadID reads the answer to CreateMultipartUpload.
func uploadID(body []byte) (string, error) {
	var a struct {
		XMLName xml.Name `xml:"InitiateMultipartUploadResult"`
		ID      string   `xml:"UploadId"`
	}
	if err := xml.Unmarshal(body, &a); err != nil {
		return "", fmt.Errorf("read the answer to the begin of an upload: %w", err)
	}
	if a.ID == "" {
		return "", errors.New("the answer to the begin of an upload has no id")
	}
	return a.ID, nil
}

// completion is the body of CompleteMultipartUpload.
func completion(m *multipart) []byte {
	var b bytes.Buffer
	b.WriteString("<CompleteMultipartUpload>")
	for i, p := range m.Parts {
		fmt.Fprintf(&b, "<Part><PartNumber>%d</PartNumber><ETag>", i+1)
		_ = xml.EscapeText(&b, []byte(p.ETag)) // a bytes.Buffer takes everything
		b.WriteString("</ETag></Part>")
	}
	b.WriteString("</CompleteMultipartUpload>")
	return b.Bytes()
}

func sha256Of(b []byte) [sha256.Size]byte { return sha256.Sum256(b) }

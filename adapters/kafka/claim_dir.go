package kafka

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// partialName begins the names of files that are not whole yet.
const partialName = ".waystation-"

// dirStore keeps objects as files below a directory, which may be a disk or a
// share that comes and goes.
type dirStore struct {
	root    string
	max     int64  // bytes of all files below root; 0 = no bound
	mounted bool   // root must not be on the file system of state
	state   string // our own directory
}

func (d *dirStore) id() string { return "directory " + d.root }

func (d *dirStore) url(key string) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(d.root, filepath.FromSlash(key)))}).String()
}

// put implements objectStore. A copy that was cut short is begun anew: what a
// disk holds of it after it was pulled out is not known.
func (d *dirStore) put(ctx context.Context, u *upload) error {
	c := u.claim
	if err := d.present(); err != nil {
		return err
	}
	path := filepath.Join(d.root, filepath.FromSlash(c.Key))
	if ok, err := d.holds(ctx, path, c); err != nil || ok {
		return err
	}
	if err := d.room(ctx, c.Bytes); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := d.folders(dir); err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	temp := filepath.Join(dir, partialName+c.ID)
	if err := copyTo(ctx, temp, u); err != nil {
		return errors.Join(fmt.Errorf("store %s: %w", path, err), removeIfThere(temp))
	}
	if ok, err := d.holds(ctx, temp, c); err != nil || !ok {
		return errors.Join(fmt.Errorf("store %s: what was written reads otherwise", path), err, removeIfThere(temp))
	}
	if err := errors.Join(os.Rename(temp, path), syncDir(dir)); err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	return nil
}

// present makes sure that the directory is there and is the one meant.
func (d *dirStore) present() error {
	info, err := os.Stat(d.root)
	if err != nil {
		return fmt.Errorf("open store %s: %w (plug it in, or make the directory)", d.root, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("open store %s: it is not a directory", d.root)
	}
	if !d.mounted {
		return nil
	}
	same, err := sameDevice(d.root, d.state)
	if err != nil {
		return fmt.Errorf("open store %s: %w", d.root, err)
	}
	if same {
		return fmt.Errorf("open store %s: nothing is mounted there (plug the disk in, or set mounted: false)", d.root)
	}
	return nil
}

// folders makes the folders of an object below the root, which is never made.
func (d *dirStore) folders(dir string) error {
	rel, err := filepath.Rel(d.root, dir)
	if err != nil {
		return err
	}
	at := d.root
	for _, part := range strings.Split(rel, string(filepath.Separator)) {
		if part == "." {
			continue
		}
		before := at
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o755); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := syncDir(before); err != nil {
			return err
		}
	}
	return nil
}

// room makes sure that n bytes more keep the budget.
func (d *dirStore) room(ctx context.Context, n int64) error {
	if d.max <= 0 {
		return nil
	}
	if n > d.max {
		return &storeRefusal{fmt.Errorf("store in %s: %d bytes are more than max_bytes (%d)", d.root, n, d.max)}
	}
	used := int64(0)
	err := filepath.WalkDir(d.root, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return errors.Join(err, ctx.Err())
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // taken away meanwhile
			return nil
		} else if err != nil {
			return err
		}
		used += info.Size()
		return nil
	})
	if err != nil {
		return fmt.Errorf("measure store %s: %w", d.root, err)
	}
	if used+n > d.max {
		return fmt.Errorf("store in %s: %d bytes more would exceed max_bytes (%d), %d are used (take files out, or raise max_bytes)", d.root, n, d.max, used)
	}
	return nil
}

// holds reports whether a file is the object of the claim.
func (d *dirStore) holds(ctx context.Context, path string, c *claim) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() != c.Bytes {
		return false, err
	}
	sum, err := hashOf(ctx, f)
	return sum == c.SHA256, err
}

// copyTo writes the file of u to path, to the disk.
func copyTo(ctx context.Context, path string, u *upload) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	u.moved(0)
	from := &paced{ctx: ctx, r: io.NewSectionReader(u.file, 0, u.claim.Bytes), u: u, beat: func() {}}
	_, err = io.Copy(struct{ io.Writer }{f}, from)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// hashOf returns the SHA-256 of what r holds.
func hashOf(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	for {
		n, err := io.CopyN(h, r, 1<<20)
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if n < 1<<20 || err != nil {
			if err != nil && !errors.Is(err, io.EOF) {
				return "", err
			}
			return hex.EncodeToString(h.Sum(nil)), nil
		}
	}
}

// syncDir brings the names in a directory to the disk.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// removeIfThere deletes a file.
func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

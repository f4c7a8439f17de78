package main

import (
	"context"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// op is one operation that a recording file system saw, or one line that the
// process on it said.
type op struct {
	kind     opKind
	path, to string // relative to the mount
	id       int    // of a file
	off      int64  // of a write; the new size of a truncate
	data     []byte
	lane     int
	cursor   string
	n        uint64
}

type opKind byte

const (
	opMkdir opKind = iota
	opCreate
	opRename
	opUnlink
	opSyncDir
	opWrite
	opTruncate
	opSync
	opHanded   // lane: records below n were handed over
	opAcked    // lane: records below n were acknowledged
	opReleased // cursor, lane: records below n may be released from here on
)

// recorder keeps what happens on a FUSE file system that passes everything on
// to a directory, in order.
type recorder struct {
	mu   sync.Mutex // guards what follows; held during each recorded operation
	ops  []op
	ids  map[string]int // of files, by path
	last int
}

func (r *recorder) say(o op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, o)
}

// mount serves dir at mnt and returns what ends that.
func (r *recorder) mount(dir, mnt string) (unmount func() error, err error) {
	root := &fs.LoopbackRoot{Path: dir}
	top := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, rec: r}
	root.RootNode = top
	second := time.Second
	server, err := fs.Mount(mnt, top, &fs.Options{AttrTimeout: &second, EntryTimeout: &second,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "waystation-lab", MaxWrite: 1 << 20, DisableXAttrs: true}})
	if err != nil {
		return nil, err
	}
	return server.Unmount, nil
}

// node is a file or directory.
type node struct {
	fs.LoopbackNode
	rec *recorder
}

// WrapChild makes every node below one of ours.
func (n *node) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: child.(*fs.LoopbackNode).RootData}, rec: n.rec}
}

func (n *node) rel() string { return filepath.Clean(n.Path(n.Root())) }

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.rec.mu.Lock()
	defer n.rec.mu.Unlock()
	in, e := n.LoopbackNode.Mkdir(ctx, name, mode, out)
	if e == 0 {
		n.rec.ops = append(n.rec.ops, op{kind: opMkdir, path: filepath.Join(n.rel(), name)})
	}
	return in, e
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	n.rec.mu.Lock()
	defer n.rec.mu.Unlock()
	in, fh, fl, e := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if e != 0 {
		return in, fh, fl, e
	}
	path := filepath.Join(n.rel(), name)
	id, known := n.rec.ids[path]
	if !known {
		n.rec.last++
		id = n.rec.last
		n.rec.ids[path] = id
		n.rec.ops = append(n.rec.ops, op{kind: opCreate, path: path, id: id})
	}
	return in, &file{fh, id, n.rec}, fl, e
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.rec.mu.Lock()
	defer n.rec.mu.Unlock()
	fh, fl, e := n.LoopbackNode.Open(ctx, flags)
	if e != 0 {
		return fh, fl, e
	}
	id := n.rec.ids[n.rel()]
	if flags&syscall.O_TRUNC != 0 {
		n.rec.ops = append(n.rec.ops, op{kind: opTruncate, id: id})
	}
	return &file{fh, id, n.rec}, fl, e
}

func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, toName string, flags uint32) syscall.Errno {
	n.rec.mu.Lock()
	defer n.rec.mu.Unlock()
	e := n.LoopbackNode.Rename(ctx, name, to, toName, flags)
	if e == 0 {
		from, dest := filepath.Join(n.rel(), name), filepath.Join(filepath.Clean(to.EmbeddedInode().Path(n.Root())), toName)
		id := n.rec.ids[from]
		delete(n.rec.ids, from)
		n.rec.ids[dest] = id
		n.rec.ops = append(n.rec.ops, op{kind: opRename, path: from, to: dest, id: id})
	}
	return e
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	n.rec.mu.Lock()
	defer n.rec.mu.Unlock()
	e := n.LoopbackNode.Unlink(ctx, name)
	if e == 0 {
		path := filepath.Join(n.rel(), name)
		n.rec.ops = append(n.rec.ops, op{kind: opUnlink, path: path, id: n.rec.ids[path]})
		delete(n.rec.ids, path)
	}
	return e
}

func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	n.rec.mu.Lock()
	defer n.rec.mu.Unlock()
	inner, id := f, n.rec.ids[n.rel()]
	if own, ok := f.(*file); ok {
		inner, id = own.FileHandle, own.id
	}
	e := n.LoopbackNode.Setattr(ctx, inner, in, out)
	if size, ok := in.GetSize(); ok && e == 0 {
		n.rec.ops = append(n.rec.ops, op{kind: opTruncate, id: id, off: int64(size)})
	}
	return e
}

func (n *node) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if own, ok := f.(*file); ok {
		f = own.FileHandle
	}
	return n.LoopbackNode.Getattr(ctx, f, out)
}

// Fsync is of a file, or of a directory by the node itself.
func (n *node) Fsync(_ context.Context, f fs.FileHandle, _ uint32) syscall.Errno {
	if own, ok := f.(*file); ok {
		n.rec.say(op{kind: opSync, id: own.id})
		return 0
	}
	n.rec.say(op{kind: opSyncDir, path: n.rel()})
	return 0
}

func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fl, e := n.LoopbackNode.OpendirHandle(ctx, flags)
	return &directory{h, n.rel(), n.rec}, fl, e
}

// directory is an open directory.
type directory struct {
	fs.FileHandle
	path string
	rec  *recorder
}

func (d *directory) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	return d.FileHandle.(fs.FileReaddirenter).Readdirent(ctx)
}

func (d *directory) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	return d.FileHandle.(fs.FileSeekdirer).Seekdir(ctx, off)
}

func (d *directory) Releasedir(ctx context.Context, flags uint32) {
	d.FileHandle.(fs.FileReleasedirer).Releasedir(ctx, flags)
}

func (d *directory) Fsyncdir(context.Context, uint32) syscall.Errno {
	d.rec.say(op{kind: opSyncDir, path: d.path})
	return 0
}

// file is an open file.
type file struct {
	fs.FileHandle
	id  int
	rec *recorder
}

func (f *file) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	f.rec.mu.Lock()
	defer f.rec.mu.Unlock()
	n, e := f.FileHandle.(fs.FileWriter).Write(ctx, p, off)
	if e == 0 {
		f.rec.ops = append(f.rec.ops, op{kind: opWrite, id: f.id, off: off, data: append([]byte(nil), p[:n]...)})
	}
	return n, e
}

func (f *file) Read(ctx context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return f.FileHandle.(fs.FileReader).Read(ctx, p, off)
}

func (f *file) Fsync(context.Context, uint32) syscall.Errno {
	f.rec.say(op{kind: opSync, id: f.id})
	return 0
}

func (f *file) Flush(ctx context.Context) syscall.Errno {
	return f.FileHandle.(fs.FileFlusher).Flush(ctx)
}

func (f *file) Release(ctx context.Context) syscall.Errno {
	return f.FileHandle.(fs.FileReleaser).Release(ctx)
}

func (f *file) Getattr(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	return f.FileHandle.(fs.FileGetattrer).Getattr(ctx, out)
}

package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	compose    = "docker-compose.yml"
	dockerfile = "Dockerfile"
	operations = "docs/operations.md"
	manifest   = "Cargo.toml"
	manifests  = "deploy/kubernetes"
)

// A project is the text of the manifests and of the files that they must agree with, by path below the root.
type project struct {
	files map[string]string
}

func readProject(root string) (*project, error) {
	project := &project{files: map[string]string{}}
	read := func(path string) error {
		text, err := os.ReadFile(filepath.Join(root, path))
		project.files[path] = string(text)
		return err
	}
	for _, path := range []string{compose, dockerfile, operations, manifest} {
		if err := read(path); err != nil {
			return nil, err
		}
	}
	err := filepath.WalkDir(filepath.Join(root, manifests), func(path string, entry fs.DirEntry, err error) error {
		extension := filepath.Ext(path)
		if err != nil || entry.IsDir() || extension != ".yaml" && extension != ".env" {
			return err
		}
		below, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return read(below)
	})
	return project, err
}

// with returns a copy in which a text of one file is replaced, wherever it stands.
func (p *project) with(path, from, to string) (*project, error) {
	if !strings.Contains(p.files[path], from) {
		return nil, fmt.Errorf("%s does not have %q", path, from)
	}
	files := map[string]string{}
	for other, text := range p.files {
		files[other] = text
	}
	files[path] = strings.ReplaceAll(files[path], from, to)
	return &project{files: files}, nil
}

// build runs kustomize on a folder and returns the documents.
func (p *project) build(folder string) ([][]byte, error) {
	memory := filesys.MakeFsInMemory()
	for path, text := range p.files {
		if err := memory.WriteFile("/"+path, []byte(text)); err != nil {
			return nil, err
		}
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(memory, filepath.Join("/", manifests, folder))
	if err != nil {
		return nil, err
	}
	var documents [][]byte
	for _, resource := range built.Resources() {
		document, err := resource.AsYAML()
		if err != nil {
			return nil, err
		}
		documents = append(documents, document)
	}
	return documents, nil
}

// section returns the text of a section of docs/operations.md without its heading.
func (p *project) section(title string) string {
	_, text, _ := strings.Cut(p.files[operations], "\n## "+title+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// GraphQL Playground keeps its tabs and settings, the token among them, in localStorage: for ever, and for all browser tabs.
// Here it finds the storage of this browser tab under that name.
Object.defineProperty(window, 'localStorage', { value: sessionStorage });

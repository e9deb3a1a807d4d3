// GraphQL Playground stores its tabs and settings, including the token, in localStorage: permanently, and for all browser tabs.
// This replaces it by the storage of this browser tab.
Object.defineProperty(window, 'localStorage', { value: sessionStorage });

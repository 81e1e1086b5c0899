import { defineConfig } from 'vite';

// Everything the page needs is a file of its own origin: the content security policy is
// `default-src 'self'`, so nothing may become a `data:` URL or an inline script.
export default defineConfig({
  base: '/',
  build: {
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    assetsInlineLimit: 0,
    modulePreload: false,
    sourcemap: false,
    reportCompressedSize: true,
  },
  // `npm run dev` with a server at GB6_HTTP (default: where `gb6 dev` listens).
  server: {
    proxy: {
      '/dev/token': process.env['GB6_HTTP'] ?? 'http://127.0.0.1:8080',
      '/connection': { target: process.env['GB6_HTTP'] ?? 'http://127.0.0.1:8080', ws: true },
    },
  },
});

// Sends one message: nodemailer.js HOST PORT MODE USER PASSWORD METHOD TO  MODE is starttls or implicit. Writes what became of it as JSON.
'use strict';
const path = require('node:path');
const nodemailer = require(path.join(__dirname, '../../../target/neighbours/node_modules/nodemailer'));
const [host, port, mode, user, pass, method, to] = process.argv.slice(2);
const transport = nodemailer.createTransport({
    host, port: Number(port), secure: mode === 'implicit', requireTLS: mode === 'starttls', name: 'node.test',
    authMethod: method, auth: { user, pass }, tls: { rejectUnauthorized: false },
});
transport.sendMail({ from: `"Süe" <${user}>`, to, subject: 'from nodemailer', text: 'Grüße\n.\nend\n' })
    .then((sent) => console.log(JSON.stringify({ response: sent.response, accepted: sent.accepted })))
    .catch((error) => console.log(JSON.stringify({ code: error.code, status: error.responseCode })));
